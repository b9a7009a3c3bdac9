#!/usr/bin/env bash
# Times whole commands of castor beside those of casync and desync, if they are on
# PATH, on the first GiB of a tar of /usr. The programs take turns within each
# round, so that a noisy machine is noisy for all; the medians are compared.
#
#   docs/bench/commands.sh [rounds] [directory to work in]
#
# castor is timed as it is, waiting for the disk, and with --no-sync, which is what
# the others do; the others also with a sync behind them, which is what castor does.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-5}
dir=${2:-$(mktemp -d)}
[ -n "${2:-}" ] || trap 'rm -rf "$dir"' EXIT
CGO_ENABLED=0 go build -trimpath -o "$dir/castor" ./cmd/castor
cd "$dir"
castor=$dir/castor
for tool in casync desync; do
	command -v $tool >/dev/null || echo "$tool is not on PATH: left out"
done
have() { command -v "$1" >/dev/null; }

if [ ! -f v1.raw ]; then
	{ tar -C / -cf - usr 2>/dev/null || true; } | head -c 1G >v1.raw
	# The second version: 40 insertions, deletions and overwrites.
	python3 - <<'P'
import random
r = random.Random(1)
b = bytearray(open('v1.raw', 'rb').read())
for _ in range(40):
    at, n = r.randrange(len(b)), r.randrange(1, 60000)
    kind = r.randrange(3)
    if kind == 0: b[at:at] = r.randbytes(n)
    elif kind == 1: del b[at:at+n]
    else: b[at:at+n] = r.randbytes(min(n, len(b)-at))
open('v2.raw', 'wb').write(b)
P
fi

# run NAME COMMAND: times the command and notes wall and CPU seconds.
run() {
	local name=$1 t
	shift
	t=$({ TIMEFORMAT='%R %U %S'; time "$@" >/dev/null 2>err; } 2>&1) || { cat err; echo "failed: $*"; exit 1; }
	echo "$name $t" >>times
}
settle() { sync; }
: >times

for ((i = 0; i < rounds; i++)); do
	# make into an empty store, and again into the full one
	for d in sha512-256 sha256 blake3; do
		rm -rf "castor-$d.castr"
		settle; run "make/castor-$d" $castor make -q --no-sync --digest $d -s castor-$d.castr castor-$d.caibx v1.raw
		settle; run "again/castor-$d" $castor make -q --no-sync --digest $d -s castor-$d.castr castor-$d.caibx v1.raw
		rm -rf sync.castr
		settle; run "make-sync/castor-$d" $castor make -q --digest $d -s sync.castr sync.caibx v1.raw
	done
	rm -rf sync.castr
	if have desync; then
		rm -rf desync.castr; mkdir desync.castr
		settle; run make/desync desync make -s desync.castr desync.caibx v1.raw
		settle; run again/desync desync make -s desync.castr desync.caibx v1.raw
		rm -rf sync.castr; mkdir sync.castr
		settle; run make-sync/desync sh -c 'desync make -s sync.castr sync.caibx v1.raw && sync -f sync.castr'
		rm -rf sync.castr
	fi
	if have casync; then
		rm -rf casync.castr
		settle; run make/casync casync --store=casync.castr make casync.caibx v1.raw
		settle; run again/casync casync --store=casync.castr make casync.caibx v1.raw
		rm -rf sync.castr
		settle; run make-sync/casync sh -c 'casync --store=sync.castr make sync.caibx v1.raw && sync -f sync.castr'
		rm -rf sync.castr
	fi

	# extract: to a new file; with the old version as a seed; over itself; in place over the old version
	for d in sha512-256 sha256 blake3; do
		$castor make -q --digest $d -s castor-$d.castr v2-$d.caibx v2.raw
		rm -f out.raw; settle; run "extract/castor-$d" $castor extract -q --no-sync -s castor-$d.castr castor-$d.caibx out.raw
		rm -f out.raw; settle; run "extract-sync/castor-$d" $castor extract -q -s castor-$d.castr castor-$d.caibx out.raw
		settle; run "over-itself/castor-$d" $castor extract -q --no-sync -s castor-$d.castr castor-$d.caibx out.raw
		settle; run "in-place/castor-$d" $castor extract -q --no-sync --in-place -s castor-$d.castr v2-$d.caibx out.raw
		cmp out.raw v2.raw
		cp castor-$d.caibx v1.caibx # beside v1.raw, so that it is not cut
		rm -f out.raw; settle; run "seed/castor-$d" $castor extract -q --no-sync --seed v1.raw -s castor-$d.castr v2-$d.caibx out.raw
		rm v1.caibx
		rm -f out.raw; settle; run "seed-no-index/castor-$d" $castor extract -q --no-sync --seed v1.raw -s castor-$d.castr v2-$d.caibx out.raw
		cmp out.raw v2.raw
		settle; run "check/castor-$d" $castor check -q castor-$d.castr
	done
	if have desync; then
		desync make -s desync.castr v2-desync.caibx v2.raw >/dev/null 2>&1
		rm -f out.raw; settle; run extract/desync desync extract -s desync.castr desync.caibx out.raw
		rm -f out.raw; settle; run extract-sync/desync sh -c 'desync extract -s desync.castr desync.caibx out.raw && sync out.raw'
		settle; run over-itself/desync desync extract -k -s desync.castr desync.caibx out.raw
		settle; run in-place/desync desync extract -k -s desync.castr v2-desync.caibx out.raw
		cp desync.caibx v1.raw.caibx
		rm -f out.raw; settle; run seed/desync desync extract --seed v1.raw.caibx:v1.raw -s desync.castr v2-desync.caibx out.raw
		rm v1.raw.caibx
		settle; run check/desync desync verify -s desync.castr
	fi
	if have casync; then
		rm -f out.raw; settle; run extract/casync casync --store=casync.castr extract casync.caibx out.raw
		rm -f out.raw; settle; run extract-sync/casync sh -c 'casync --store=casync.castr extract casync.caibx out.raw && sync out.raw'
		casync --store=casync.castr make v2-casync.caibx v2.raw >/dev/null
		rm -f out.raw; settle; run seed/casync casync --store=casync.castr --seed=v1.raw extract v2-casync.caibx out.raw
	fi
	echo "round $((i + 1)) of $rounds done" >&2
done

python3 - <<'P'
import collections, statistics
t = collections.defaultdict(list)
for l in open('times'):
    n, w, u, s = l.split()
    t[n].append((float(w), float(u)+float(s)))
med = {n: (statistics.median(x[0] for x in v), statistics.median(x[1] for x in v)) for n, v in t.items()}
tasks = list(dict.fromkeys(n.split('/')[0] for n in med))
progs = list(dict.fromkeys(n.split('/')[1] for n in med))
others = [p for p in progs if not p.startswith('castor')]
print(f"{'task':14s} {'program':18s} {'wall s':>7s} {'CPU s':>7s}" + ''.join(f"{'x '+o:>10s}{'(CPU)':>8s}" for o in others))
for task in tasks:
    for p in progs:
        if f'{task}/{p}' not in med: continue
        w, c = med[f'{task}/{p}']
        row = f"{task:14s} {p:18s} {w:7.2f} {c:7.2f}"
        for o in others:
            if f'{task}/{o}' in med and p != o:
                ow, oc = med[f'{task}/{o}']
                row += f"{ow/w:9.2f}x{oc/max(c,.01):7.2f}x"
            else: row += ' '*18
        print(row)
P
