#!/usr/bin/env python3
"""Times castor serve beside nginx and a bare file server, and extracting from them beside casync.

    docs/bench/serve.py [--rounds N] [--size BYTES] [--dir DIR] [--seconds N]

Needs nginx, wrk and casync on PATH, and versitygw there or where go install puts it. The content is the first bytes of a tar of /usr.
All programs take turns within each round; medians are compared.

  chunks    wrk asks for all chunks of the store in a random order, over 32
            connections, as often as it can; requests a second, and the processor time
            of the server for each; beside nginx, a file server of nothing but Go's
            library, with the same setting of its garbage collector
  extract   castor extract from castor serve, from nginx and from an S3 server, beside
            casync extract from nginx, into a new file; the caches of the system are
            warm, those of the programs empty
"""
import argparse, os, random, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

parser = argparse.ArgumentParser()
parser.add_argument('--rounds', type=int, default=5)
parser.add_argument('--size', type=int, default=1 << 30)
parser.add_argument('--seconds', type=int, default=5)
parser.add_argument('--dir', default='')
args = parser.parse_args()
for tool in ('nginx', 'wrk', 'casync'):
    if not shutil.which(tool):
        sys.exit(f'{tool} is not on PATH')

gopath = subprocess.run(['go', 'env', 'GOPATH'], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
os.environ['PATH'] += f':{gopath}/bin'
if not shutil.which('versitygw'):
    sys.exit('versitygw is not on PATH')

work = args.dir or tempfile.mkdtemp(prefix='castor-bench-')
os.makedirs(work, exist_ok=True)
os.chmod(work, 0o755)
CASTOR = f'{work}/castor'
here = os.path.dirname(os.path.abspath(__file__))
subprocess.run(['go', 'build', '-trimpath', '-o', CASTOR, './cmd/castor'], cwd=f'{here}/../..', check=True, env={**os.environ, 'CGO_ENABLED': '0'})

BARE = '''package main

import (
	"net/http"
	"os"
)

func main() { panic(http.ListenAndServe(os.Args[1], http.FileServer(http.Dir(os.Args[2])))) }
'''
os.makedirs(f'{work}/bare', exist_ok=True)
with open(f'{work}/bare/main.go', 'w') as f:
    f.write(BARE)
subprocess.run(['go', 'build', '-o', f'{work}/bareserver', f'{work}/bare/main.go'], check=True, env={**os.environ, 'CGO_ENABLED': '0'})

LUA = '''
local paths, at = {}, 0
function init() for l in io.lines('%s/urls') do paths[#paths + 1] = wrk.format('GET', l) end end
function request() at = at %% #paths + 1; return paths[at] end
'''
NGINX = '''
daemon off; worker_processes auto; pid {w}/nginx.pid; error_log {w}/nginx.log; {user}
events {{ worker_connections 4096; }}
http {{
	access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; root {w};
	client_body_temp_path {w}/t1; proxy_temp_path {w}/t2; fastcgi_temp_path {w}/t3; uwsgi_temp_path {w}/t4; scgi_temp_path {w}/t5;
	server {{ listen 127.0.0.1:{port}; }}
}}
'''


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def begin(*cmd, port, **env):
    p = subprocess.Popen(cmd, cwd=work, env={**os.environ, **env})
    for _ in range(200):
        try:
            socket.create_connection(('127.0.0.1', port)).close()
            return p
        except OSError:
            time.sleep(0.05)
    sys.exit(f'{cmd} does not listen')


def cpu(pid):
    """Processor time of a process and its children, in seconds."""
    ticks = 0
    with open(f'/proc/{pid}/task/{pid}/children') as f:
        pids = [pid] + [int(p) for p in f.read().split()]
    for p in pids:
        with open(f'/proc/{p}/stat') as f:
            fields = f.read().rpartition(')')[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf('SC_CLK_TCK')


def wrk(server, port):
    before = cpu(server.pid)
    out = subprocess.run(['wrk', '-t1', '-c32', f'-d{args.seconds}', '-s', f'{work}/wrk.lua', f'http://127.0.0.1:{port}'],
                         check=True, stdout=subprocess.PIPE, text=True).stdout
    if 'Non-2xx' in out or 'Socket errors' in out:
        sys.exit(out)
    n = int(out.split(' requests in')[0].split()[-1])
    return n / args.seconds, (cpu(server.pid) - before) / n


def timed(*cmd):
    if os.path.exists(f'{work}/out'):
        os.remove(f'{work}/out')
    os.sync()
    t = time.time()
    subprocess.run(cmd, check=True, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    t = time.time() - t
    subprocess.run(['cmp', f'{work}/out', f'{work}/v.raw'], check=True)
    return t


servers = []
try:
    if not os.path.exists(f'{work}/v.raw') or os.path.getsize(f'{work}/v.raw') != args.size:
        subprocess.run(f'tar -C / -cf - usr 2>/dev/null | head -c {args.size} >{work}/v.raw', shell=True, check=True)
        shutil.rmtree(f'{work}/default.castr', ignore_errors=True)
    subprocess.run([CASTOR, 'make', '-q', '--digest', 'sha512-256', 'v.caibx', 'v.raw'], cwd=work, check=True)
    urls = [f'/{d.name}/{f.name}' for d in os.scandir(f'{work}/default.castr') for f in os.scandir(d.path)]
    random.Random(1).shuffle(urls)
    with open(f'{work}/urls', 'w') as f:
        f.writelines(f'/default.castr{u}\n' for u in urls)
    with open(f'{work}/wrk.lua', 'w') as f:
        f.write(LUA % work)
    ports = {name: free_port() for name in ('nginx', 'bare', 'castor', 's3')}
    with open(f'{work}/nginx.conf', 'w') as f:
        f.write(NGINX.format(w=work, port=ports['nginx'], user='user root;' if os.geteuid() == 0 else ''))
    server = {
        'nginx': begin('nginx', '-e', f'{work}/nginx.log', '-c', f'{work}/nginx.conf', port=ports['nginx']),
        'bare': begin(f'{work}/bareserver', f'127.0.0.1:{ports["bare"]}', work, port=ports['bare'], GOGC='400'),
        'castor': begin(CASTOR, 'serve', '-q', '--index-dir', work, '--listen', f'127.0.0.1:{ports["castor"]}', port=ports['castor']),
    }
    os.makedirs(f'{work}/s3/images', exist_ok=True)
    os.environ.update(ROOT_ACCESS_KEY='castor', ROOT_SECRET_KEY='castor-secret', S3_ACCESS_KEY='castor', S3_SECRET_KEY='castor-secret')
    s3 = begin('versitygw', '--port', f'127.0.0.1:{ports["s3"]}', '--quiet', '--keep-alive', 'posix', f'{work}/s3', port=ports['s3'])
    servers = [*server.values(), s3]
    index = {name: f'http://127.0.0.1:{ports[name]}/v.caibx' for name in server}
    index['s3'] = f's3+http://127.0.0.1:{ports["s3"]}/images/v.caibx'
    subprocess.run([CASTOR, 'copy', '-q', '-d', index['s3'].replace('v.caibx', 'default.castr'), '--indexes', index['s3'].replace('/v.caibx', ''), 'v.caibx'], cwd=work, check=True)
    chunks, extract = {}, {}
    for r in range(args.rounds):
        for name in server:
            chunks.setdefault(name, []).append(wrk(server[name], ports[name]))
        for name, cmd in (('castor from castor serve', [CASTOR, 'extract', '-q', '--no-sync', index['castor'], 'out']),
                          ('castor from nginx', [CASTOR, 'extract', '-q', '--no-sync', index['nginx'], 'out']),
                          ('castor from S3 (versitygw)', [CASTOR, 'extract', '-q', '--no-sync', index['s3'], 'out']),
                          ('casync from nginx', ['casync', 'extract', index['nginx'], 'out'])):
            extract.setdefault(name, []).append(timed(*cmd))
        print(f'round {r + 1} of {args.rounds} done', file=sys.stderr, flush=True)
    print(f'{len(urls)} chunks of {args.size >> 20} MiB\n')
    print('| server | chunks/s | of nginx | processor time, µs a chunk |\n|---|--:|--:|--:|')
    for name, v in chunks.items():
        ratio = statistics.median(a[0] / b[0] for a, b in zip(v, chunks['nginx']))
        print(f'| {name} | {statistics.median(x[0] for x in v):.0f} | {100 * ratio:.0f} % | {1e6 * statistics.median(x[1] for x in v):.0f} |')
    print('\n| extract | s | × casync |\n|---|--:|--:|')
    for name, v in extract.items():
        ratio = statistics.median(b / a for a, b in zip(v, extract['casync from nginx']))
        print(f'| {name} | {statistics.median(v):.2f} | {ratio:.1f} |')
finally:
    for s in servers:
        s.send_signal(signal.SIGTERM)
        s.wait()
    if not args.dir:
        shutil.rmtree(work, ignore_errors=True)
