package blob

// slack is how far a read may be from where the last one of its stream ended, in
// bytes: kernels read ahead in several requests at once, in no order.
const slack = 1 << 20

// near is how far a read may be ahead of that, if it is not as large itself, to go
// forward rather than to leave out what is between, in bytes: about a chunk.
const near = 64 << 10

// stream is a reader that seems to go forward.
type stream struct {
	next  int64 // the end of what it has read
	steps int   // how often it went forward
	used  int64 // when it was last read, in reads
}

// streams recognises readers that go forward among reads at any place, by where
// they read. It follows a few at once.
type streams struct {
	all   [16]stream
	reads int64
}

// read notes a read of the bytes from off to end. It returns how many chunks from
// offset from on are likely to be read next: 0 until a reader has gone forward, and
// more with each step.
func (s *streams) read(off, end int64) (from int64, depth int) {
	s.reads++
	oldest := &s.all[0]
	for i := range s.all {
		t := &s.all[i]
		if t.used > 0 && off <= t.next+slack && off >= t.next-slack {
			t.used = s.reads
			if end <= t.next {
				return 0, 0
			}
			skips := off > t.next+max(near, end-off)
			t.next = end
			if skips {
				return 0, 0
			}
			t.steps = min(t.steps+1, 16)
			return end, 1 << t.steps
		}
		if t.used < oldest.used {
			oldest = t
		}
	}
	*oldest = stream{next: end, used: s.reads}
	return 0, 0
}
