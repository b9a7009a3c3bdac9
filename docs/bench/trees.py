#!/usr/bin/env python3
"""Times castor on trees of small files beside casync and tar, if they are on PATH.

    docs/bench/trees.py [--rounds N] [--files N] [--tree DIR] [--dir DIR]

The tree is DIR, or else made: N files, of 4 KiB on average, in directories of 20.
The programs take turns within each round, and the medians are compared. castor is
timed with --no-sync, as the others do not wait for the disk either.

Nothing is removed before the end: ext4 is slow to make files for minutes after
others were removed, which would be counted against whoever comes next. So there must
be space for five trees for each round; --dir should be on a file system that is fresh.

At the end, the chunks are counted that castor and casync read to list a directory
of 100,000 files in 5,000 directories, over HTTP.
"""
import argparse, collections, functools, http.server, os, random, resource, shutil, statistics, subprocess, sys, tempfile, threading, time

parser = argparse.ArgumentParser()
parser.add_argument('--rounds', type=int, default=5)
parser.add_argument('--files', type=int, default=60_000)
parser.add_argument('--tree', default='')
parser.add_argument('--dir', default=None, help='where to work')
args = parser.parse_args()
here = os.path.dirname(os.path.abspath(__file__))
work = tempfile.mkdtemp(prefix='castor-bench-', dir=args.dir)
CASTOR = f'{work}/castor'
times = collections.defaultdict(list)


def make_tree(root, files, size):
    r = random.Random(1)
    for i in range(files):
        d = f'{root}/{i // 400:04d}/{i // 20 % 20:02d}'
        if i % 20 == 0:
            os.makedirs(d)
        with open(f'{d}/{i:06d}', 'wb') as f:
            f.write(r.randbytes(min(int(r.lognormvariate(0, 1.2) * size / 2), 64 * size)))


def run(task, program, *cmd):
    """Runs cmd, which may be a line for the shell, and notes wall and CPU seconds."""
    if not shutil.which(cmd[0].split()[0]):
        return
    os.sync()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    p = subprocess.run(cmd if len(cmd) > 1 else cmd[0], shell=len(cmd) == 1, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    took, after = time.time() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if p.returncode:
        sys.exit(f'{cmd}: {p.stderr.decode()}')
    times[task, program].append((took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


def round_(n):
    for p in ('castor', 'casync'):
        if p == 'castor':
            make, extract, store = [CASTOR, 'make', '-q', '--no-sync'], [CASTOR, 'extract', '-q', '--no-sync'], '-s'
        else:
            make, extract, store = ['casync', 'make'], ['casync', 'extract'], '--store'
        out = f'{p}{n}'
        s = [f'{store}={out}.castr'] if p == 'casync' else [store, f'{out}.castr']
        run('make .catar', p, *make, f'{out}.catar', tree)
        run('make .caidx', p, *make, *s, f'{out}.caidx', tree)
        run('make .caidx again', p, *make, *s, f'{out}.caidx', tree)
        run('extract .catar', p, *extract, f'{out}.catar', f'{out}.a')
        run('extract .catar again', p, *extract, f'{out}.catar', f'{out}.a')
        run('extract .caidx', p, *extract, *s, f'{out}.caidx', f'{out}.b')
        run('extract .caidx again', p, *extract, *s, f'{out}.caidx', f'{out}.b')
    if shutil.which('tar') and shutil.which('zstd'):
        run('make .caidx', 'tar --zstd', f'tar --zstd -cf tar{n}.tzst -C {tree} .')
        os.mkdir(f'{work}/tar{n}.b')
        run('extract .caidx', 'tar --zstd', f'tar --zstd -xf tar{n}.tzst -C tar{n}.b')
        run('extract .caidx again', 'tar --zstd', f'tar --zstd -xf tar{n}.tzst -C tar{n}.b')


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    chunks = 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        Handler.chunks += self.path.endswith('.cacnk')
        super().do_GET()


def list_one():
    make_tree(f'{work}/many', 100_000, 100)
    subprocess.run([CASTOR, 'make', '-q', '--no-sync', '--digest', 'sha512-256', '-s', f'{work}/many.castr', f'{work}/many.caidx', f'{work}/many'], check=True)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=work))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}'
    total = subprocess.run([CASTOR, 'chunks', f'{work}/many.caidx'], check=True, stdout=subprocess.PIPE).stdout.count(b'\n')
    print(f'\n| list of 20 of 100,000 files, {total} chunks | chunks read | wall s |\n|---|--:|--:|')
    for name, cmd in (('castor', [CASTOR, 'list', '-s', f'{url}/many.castr', f'{work}/many.caidx', '0123/07']),
                      ('casync', ['casync', 'list', f'--store={url}/many.castr', f'{work}/many.caidx', '0123/07'])):
        if not shutil.which(cmd[0]):
            continue
        Handler.chunks, start = 0, time.time()
        p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if p.returncode or p.stdout.count(b'0123/07/') < 20:
            print(f'| {name} | failed: {p.stdout[-200:]} | |')
            continue
        print(f'| {name} | {Handler.chunks} | {time.time() - start:.2f} |')
    server.shutdown()


try:
    subprocess.run(['go', 'build', '-trimpath', '-o', CASTOR, './cmd/castor'], cwd=f'{here}/../..', check=True, env={**os.environ, 'CGO_ENABLED': '0'})
    tree = os.path.abspath(args.tree) if args.tree else f'{work}/tree'
    if not args.tree:
        make_tree(tree, args.files, 4096)
    for p in ('casync', 'tar', 'zstd'):
        if not shutil.which(p):
            print(p, 'is not on PATH: left out')
    for n in range(args.rounds):
        round_(n)
        print(f'round {n + 1} of {args.rounds} done', file=sys.stderr)
    print('| task | program | wall s | CPU s | castor is faster by | with CPU less by |\n|---|---|--:|--:|--:|--:|')
    median = {k: [statistics.median(x[i] for x in v) for i in (0, 1)] for k, v in times.items()}
    for task in dict.fromkeys(t for t, _ in median):
        wall, cpu = median[task, 'castor']
        for (t, p), (w, c) in median.items():
            if t == task:
                print(f'| {t} | {p} | {w:.2f} | {c:.2f} | ' + ('| |' if p == 'castor' else f'{w / wall:.2f} × | {c / max(cpu, .01):.2f} × |'))
    list_one()
finally:
    shutil.rmtree(work)
