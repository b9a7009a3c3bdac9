#!/usr/bin/env python3
"""Times castor's multicast beside uftp and udpcast, if they are on PATH.

    docs/bench/mcast.py [--rounds N] [--only PART,…] [--size BYTES] [--offload]

Parts: clean, loss, fast, gigabit (a file five times as large), cpu (1, 4 and 40
receivers at the same rate).

A sender and receivers sit in network namespaces on a Linux bridge (root and the
programs ip and iptables are needed). The programs take turns within each round.
Bytes are those that the sender's interface counts, Ethernet headers included,
divided by the size of the file. Segmentation offload is off on the links, so that
every datagram is counted and lost by itself; with --offload it is on, as on a network
card that segments: then bytes are counted too low. Each receiver's file is compared.
CPU seconds are those of the sender's process from its start to its end, of which a
part of sys is the bridge: it copies each packet to the receivers' ports within the
sender's system call.
"""
import argparse, os, shutil, signal, statistics, subprocess, sys, tempfile, time

P = 'cbench'
parser = argparse.ArgumentParser()
parser.add_argument('--rounds', type=int, default=3)
parser.add_argument('--only', default='', help='parts, separated by commas; all if empty')
parser.add_argument('--size', type=int, default=100_000_000)
parser.add_argument('--offload', action='store_true')
args = parser.parse_args()


def sh(*cmd, check=True, **kw):
    return subprocess.run(cmd, check=check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw).stdout


def host(i):
    return ['ip', 'netns', 'exec', f'{P}{i}']


def up(n):
    sh('ip', 'netns', 'add', P + 'b')
    sh('ip', '-n', P + 'b', 'link', 'add', 'br0', 'type', 'bridge', 'mcast_snooping', '1', 'mcast_mld_version', '2')
    sh('ip', '-n', P + 'b', 'link', 'set', 'br0', 'up')
    for i in range(n + 1):
        ns = f'{P}{i}'
        sh('ip', 'netns', 'add', ns)
        sh('ip', '-n', ns, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', f'p{i}', 'netns', P + 'b')
        sh(*host(i), 'sysctl', '-qw', *[f'net.ipv6.conf.{c}.accept_dad=0' for c in ('all', 'default', 'eth0')])
        sh('ip', '-n', ns, 'addr', 'add', f'10.77.0.{i + 1}/24', 'brd', '+', 'dev', 'eth0')
        sh('ip', '-n', P + 'b', 'link', 'set', f'p{i}', 'master', 'br0', 'up')
        sh('ip', '-n', ns, 'link', 'set', 'lo', 'up')
        sh('ip', '-n', ns, 'link', 'set', 'eth0', 'up', *([] if args.offload else ['gso_max_segs', '1']))
        sh('ip', '-n', ns, 'route', 'add', '224.0.0.0/4', 'dev', 'eth0')
    time.sleep(2)  # until the bridge forwards


def down():
    for line in sh('ip', 'netns', 'list').splitlines():
        if line.startswith(P):
            sh('ip', 'netns', 'del', line.split()[0], check=False)


def loss(n, percent):
    for i in range(1, n + 1):
        for tables in ('iptables', 'ip6tables'):
            sh(*host(i), tables, '-F', 'INPUT')
            if percent:
                sh(*host(i), tables, '-A', 'INPUT', '-p', 'udp', '-m', 'statistic', '--mode', 'random',
                   '--probability', str(percent / 100), '-j', 'DROP')


def sent():
    return int(sh(*host(0), 'cat', '/sys/class/net/eth0/statistics/tx_bytes'))


def start(i, cmd, cwd):
    return subprocess.Popen(host(i) + cmd, cwd=cwd, stdout=subprocess.DEVNULL, stderr=open(f'{cwd}/err{i}', 'w'))


LIMIT = 60  # seconds for one run


def wait(processes, begin):
    """Waits for processes, and kills those that take too long."""
    for p in processes:
        try:
            p.wait(max(1, LIMIT - (time.time() - begin)))
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


def finish(p, begin):
    """Waits for a sender, kills it if it takes too long, and returns its CPU seconds,
    user and sys."""
    while True:
        pid, status, used = os.wait4(p.pid, os.WNOHANG)
        if pid:
            p.returncode = os.waitstatus_to_exitcode(status)
            return used.ru_utime, used.ru_stime
        if time.time() - begin > LIMIT:
            p.kill()
        time.sleep(0.002)


def out(i):
    return f'{work}/out{i}'


# Each of these sends the file f and returns the wall time in seconds, the bytes sent and
# the sender's CPU seconds.


def castor(f, rate, n):
    server = start(0, [CASTOR, 'cast', '-q', '-i', 'eth0', '--rate', f'{rate}M', f'{f}.caibx'], work)
    time.sleep(0.5)
    root = sh(CASTOR, 'root', f'{work}/{f}.caibx').strip()
    begin, bytes = time.time(), sent()
    rs = [start(i, [CASTOR, 'extract', '-q', '--no-sync', f'mcast://eth0/{root}', out(i)], work) for i in range(1, n + 1)]
    wait(rs, begin)
    took = time.time() - begin
    time.sleep(0.2)
    bytes = sent() - bytes
    server.send_signal(signal.SIGTERM)
    return took, bytes, finish(server, time.time())


def uftp(f, rate, n):
    rs = []
    for i in range(1, n + 1):
        os.makedirs(f'{work}/d{i}', exist_ok=True)
        rs.append(start(i, ['uftpd', '-d', '-I', f'10.77.0.{i + 1}', '-D', f'{work}/d{i}', '-B', '4194304'], work))
    time.sleep(0.5)
    begin, bytes = time.time(), sent()
    cpu = finish(start(0, ['uftp', '-R', str(rate * 1000), '-I', '10.77.0.1', '-B', '4194304', f], work), begin)
    took, bytes = time.time() - begin, sent() - bytes
    for i, r in enumerate(rs, 1):
        r.terminate()
        r.wait()
        if os.path.exists(f'{work}/d{i}/{f}'):
            os.replace(f'{work}/d{i}/{f}', out(i))
    return took, bytes, cpu


def udpcast(f, rate, n):
    begin, bytes = time.time(), sent()
    rs = [start(i, ['udp-receiver', '--nokbd', '--interface', 'eth0', '-f', out(i)], work) for i in range(1, n + 1)]
    server = start(0, ['udp-sender', '--nokbd', '--interface', 'eth0', '--min-receivers', str(n), '--max-bitrate', f'{rate}m', '-f', f], work)
    cpu = finish(server, begin)
    wait(rs, begin)
    return time.time() - begin, sent() - bytes, cpu


# part, receivers, loss in percent, rate in Mbit/s, size of the file in args.size; the
# rate is low where a bridge in software would be the limit
TASKS = [('clean', 4, 0, 200, 1), ('clean', 40, 0, 60, 1), ('loss', 4, 5, 200, 1), ('loss', 40, 5, 60, 1), ('loss', 4, 20, 200, 1),
         ('fast', 4, 0, 500, 1), ('gigabit', 1, 0, 1000, 5), ('gigabit', 4, 0, 1000, 5),
         ('cpu', 1, 0, 60, 1), ('cpu', 4, 0, 60, 1), ('cpu', 40, 0, 60, 1)]
PARTS = [p for p in args.only.split(',') if p]
unknown = set(PARTS) - {t[0] for t in TASKS}
if unknown:
    parser.error('no such part: ' + ', '.join(sorted(unknown)))

work = tempfile.mkdtemp(prefix='castor-bench-')
CASTOR = f'{work}/castor'
here = os.path.dirname(os.path.abspath(__file__))
subprocess.run(['go', 'build', '-trimpath', '-o', CASTOR, './cmd/castor'], cwd=f'{here}/../..', check=True, env={**os.environ, 'CGO_ENABLED': '0'})
programs = [castor]
for f, tool in ((uftp, 'uftp'), (udpcast, 'udp-sender')):
    if shutil.which(tool):
        programs.append(f)
    else:
        print(tool, 'is not on PATH: left out')
results = {}


def table():
    print('| part | receivers | loss | rate Mbit/s | MB | program | bytes × | wall s | of bytes/rate | sender user s | sys s | right |')
    print('|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|')
    for (task, p), v in results.items():
        part, n, percent, rate, size = task
        ratio, took, user, system, right = (statistics.median(x[i] for x in v) for i in range(5))
        ideal = ratio * size * args.size * 8 / (rate * 1e6)
        print(f'| {part} | {n} | {percent} % | {rate} | {size * args.size / 1e6:g} | {p} | {ratio:.3f} | {took:.2f} | {took / ideal:.2f} '
              f'| {user:.2f} | {system:.2f} | {100 * right:.0f} % |')


try:
    tasks = [t for t in TASKS if not PARTS or t[0] in PARTS]
    for size in sorted({t[4] for t in tasks}):
        with open(f'{work}/f{size}', 'wb') as f:
            for _ in range(size):
                f.write(os.urandom(args.size))
        sh(CASTOR, 'make', '-q', '-s', f'{work}/default.castr', f'{work}/f{size}.caibx', f'{work}/f{size}')
    down()
    up(max(t[1] for t in tasks))
    for r in range(args.rounds):
        for task in tasks:
            part, n, percent, rate, size = task
            loss(n, percent)
            for p in programs:
                try:
                    took, bytes, (user, system) = p(f'f{size}', rate, n)
                except Exception as e:
                    print(p.__name__, task, 'failed:', e)
                    continue
                right = sum(subprocess.run(['cmp', '-s', f'{work}/f{size}', out(i)]).returncode == 0 for i in range(1, n + 1))
                for i in range(1, n + 1):
                    if os.path.exists(out(i)):
                        os.remove(out(i))
                results.setdefault((task, p.__name__), []).append((bytes / (size * args.size), took, user, system, right / n))
        print(f'round {r + 1} of {args.rounds} done', flush=True)
        table()
finally:
    down()
    shutil.rmtree(work, ignore_errors=True)
