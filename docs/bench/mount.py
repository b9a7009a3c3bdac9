#!/usr/bin/env python3
"""Times castor mount beside plain files and casync mount.

    docs/bench/mount.py [--rounds N] [--size BYTES] [--files N] [--seconds N] [--parts blob,image,tree] [--dir DIR]

Needs root, /dev/fuse, fio and casync. All take turns within each round; medians are
compared.

  blob   fio reads the mounted file of an index, and the plain file, in order and at
         random, in pieces of 4 and 64 KiB: cold, from a new mount, so that every byte is
         got from the store, verified and decompressed, and the plain file read from disk;
         and warm, again from the same mount
  image  the same from a complete file of --copy-on-read, with and without --passthrough: cold,
         with nothing of it in memory; anew, from a new mount with the file in the system's
         cache; and warm
  tree   find with all metadata, and tar, over a tree with FILES files from /usr: mounted
         anew by castor and by casync, again from castor's mount, and as files, warm
"""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, time

parser = argparse.ArgumentParser()
parser.add_argument('--rounds', type=int, default=3)
parser.add_argument('--size', type=int, default=512 << 20)
parser.add_argument('--files', type=int, default=60000)
parser.add_argument('--seconds', type=int, default=4)
parser.add_argument('--parts', default='blob,image,tree')
parser.add_argument('--dir', default='')
parser.add_argument('--castor', default='', help='the program to measure (default: built from here)')
args = parser.parse_args()
for tool in ('fio', 'casync'):
    if not shutil.which(tool):
        sys.exit(f'{tool} is not on PATH')
if os.geteuid() != 0 or not os.path.exists('/dev/fuse'):
    sys.exit('mounting needs root and /dev/fuse')

work = args.dir or tempfile.mkdtemp(prefix='castor-bench-')
os.makedirs(f'{work}/mnt', exist_ok=True)
os.chdir(work)
os.environ.pop('CASTOR_STORE', None)
CASTOR = os.path.abspath(args.castor) if args.castor else f'{work}/castor'
if not args.castor:
    here = os.path.dirname(os.path.abspath(__file__))
    subprocess.run(['go', 'build', '-trimpath', '-o', CASTOR, './cmd/castor'], cwd=f'{here}/../..', check=True,
                   env={**os.environ, 'CGO_ENABLED': '0'})


def run(*cmd):
    subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL)


def prepare():
    """Makes the blob, the tree and their indexes; the tree is of files in /usr."""
    if not os.path.exists('blob'):
        with open('blob', 'wb') as f:
            tar = subprocess.Popen(['tar', 'cf', '-', '/usr'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            left = args.size
            while left > 0 and (b := tar.stdout.read(min(left, 1 << 20))):
                f.write(b)
                left -= len(b)
            tar.kill()
            tar.wait()
            os.fsync(f.fileno())
    if not os.path.exists('tree'):
        os.mkdir('tree')
        names = subprocess.run(['find', '/usr', '-xdev', '-type', 'f', '-size', '-256k', '-print0'], check=True,
                               stdout=subprocess.PIPE).stdout.split(b'\0')[:-1][:args.files]
        subprocess.run(['tar', 'cf', 'tree.tar', '--null', '-P', '-T', '-'], input=b'\0'.join(names), check=True)
        run('tar', 'xf', 'tree.tar', '-C', 'tree', '--transform', 's|^/||')
        os.remove('tree.tar')
    run(CASTOR, 'make', '-q', '--digest', 'sha512-256', 'blob.caibx', 'blob')
    run('casync', 'make', '--store=tree.castr', '--without=all', '--with=unix', 'tree.caidx', 'tree')


class Mount:
    """A mount for a with statement, by castor or casync."""

    def __init__(self, *cmd):
        self.cmd = cmd

    def __enter__(self):
        self.process = subprocess.Popen(self.cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not os.path.ismount('mnt'):
            if self.process.poll() is not None:
                sys.exit(f'{self.cmd} ended')
            time.sleep(0.01)

    def __exit__(self, *_):
        while subprocess.run(['umount', 'mnt'], stderr=subprocess.DEVNULL).returncode:
            time.sleep(0.1)
        self.process.wait()


def fio(name, how, size, warm):
    """Returns the MiB a second that fio reads; cold with nothing in the system's cache."""
    out = subprocess.run(['fio', '--name=x', f'--filename={name}', f'--rw={how}', f'--bs={size}', '--ioengine=psync', '--readonly',
                          f'--invalidate={0 if warm else 1}', f'--runtime={args.seconds}', '--output-format=json'] +
                         (['--time_based'] if warm or how == 'randread' else []),
                         check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return json.loads(out)['jobs'][0]['read']['bw_bytes'] / (1 << 20)


def seconds(command):
    start = time.monotonic()
    subprocess.run(['sh', '-c', command], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


results = {}


def note(key, value):
    results.setdefault(key, []).append(value)


def blob_round():
    for how in 'read', 'randread':
        for size in '4k', '64k':
            note((how, size, 'cold', 'plain'), fio('blob', how, size, False))
            with Mount(CASTOR, 'mount', '-q', 'blob.caibx', 'mnt'):
                note((how, size, 'cold', 'mount'), fio('mnt/blob', how, size, False))
                run('cat', 'mnt/blob', 'blob')
                note((how, size, 'warm', 'mount'), fio('mnt/blob', how, size, True))
                note((how, size, 'warm', 'plain'), fio('blob', how, size, True))


def drop(name):
    """Puts a file out of the system's cache."""
    fd = os.open(name, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def image_round():
    if not os.path.exists('image'):
        with Mount(CASTOR, 'mount', '-q', '--copy-on-read', 'image', 'blob.caibx', 'mnt'):
            run('cat', 'mnt/blob')
    for how in 'read', 'randread':
        for size in '4k', '64k':
            for who, flags in ('served', []), ('passed', ['--passthrough']):
                with Mount(CASTOR, 'mount', '-q', '--copy-on-read', 'image', *flags, 'blob.caibx', 'mnt'):
                    drop('image')
                    note((how, size, 'cold', who), fio('mnt/blob', how, size, False))
                    run('cat', 'image')
                    note((how, size, 'anew', who), fio('mnt/blob', how, size, who == 'passed'))
                    run('cat', 'mnt/blob')
                    note((how, size, 'warm', who), fio('mnt/blob', how, size, True))


COMMANDS = {'find': 'find %s -ls > /dev/null', 'tar': 'tar cf - -C %s . | cat > /dev/null'}


def tree_round():
    for name, command in COMMANDS.items():
        with Mount(CASTOR, 'mount', '-q', '-s', 'tree.castr', 'tree.caidx', 'mnt'):
            note((name, 'castor'), seconds(command % 'mnt'))
            note((name, 'castor, warm'), seconds(command % 'mnt'))
        with Mount('casync', 'mount', '--store=tree.castr', 'tree.caidx', 'mnt'):
            note((name, 'casync'), seconds(command % 'mnt'))
        seconds(command % 'tree')
        note((name, 'files, warm'), seconds(command % 'tree'))


try:
    prepare()
    for _ in range(args.rounds):
        for part in args.parts.split(','):
            {'blob': blob_round, 'image': image_round, 'tree': tree_round}[part]()
    m = {k: statistics.median(v) for k, v in results.items()}
    print('fio, MiB/s                 mount     plain  of plain')
    for how in ('read', 'randread') if 'blob' in args.parts else ():
        for size in '4k', '64k':
            for state in 'cold', 'warm':
                a, b = m[how, size, state, 'mount'], m[how, size, state, 'plain']
                print(f'{how:9} {size:4} {state:5} {a:12.0f} {b:9.0f} {a / b:8.0%}')
    print('\nimage, MiB/s              served    passed')
    for how in ('read', 'randread') if 'image' in args.parts else ():
        for size in '4k', '64k':
            for state in 'cold', 'anew', 'warm':
                a, b = m[how, size, state, 'served'], m[how, size, state, 'passed']
                print(f'{how:9} {size:4} {state:5} {a:12.0f} {b:9.0f}')
    print('\ntree, seconds              castor    casync   x casync   castor, warm   files, warm')
    for name in COMMANDS if 'tree' in args.parts else ():
        a, b, c, d = (m[name, who] for who in ('castor', 'casync', 'castor, warm', 'files, warm'))
        print(f'{name:20} {a:12.2f} {b:9.2f} {b / a:10.1f} {c:14.2f} {d:13.2f}')
finally:
    subprocess.run(['umount', '-l', 'mnt'], stderr=subprocess.DEVNULL)
    if not args.dir:
        shutil.rmtree(work)
