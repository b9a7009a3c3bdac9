package sftp

import (
	"cmp"
	"log/slog"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/sshexec"
	"github.com/castorsync/castor/store/cacnk"
)

// Options are the settings of [Open] and of the functions for indexes. The zero value
// and nil mean the defaults.
type Options struct {
	// MaxChunk is the greatest size of a plain chunk in bytes; 0 means
	// [chunker.MaxSize]. Files of more are not read.
	MaxChunk int
	// Plain stores chunks without compression, and asks for them so first.
	Plain bool
	// Level is the compression level for chunks put plain, see
	// [cacnk.NewEncoder]; 0 means [cacnk.DefaultLevel].
	Level int
	// Create makes the directory when the first chunk is put. Without it, Open
	// fails if there is none.
	Create bool
	// Durable makes chunks survive a power failure of the server, if that has
	// fsync@openssh.com: they get their names only after their bytes have reached
	// the disk.
	Durable bool

	// SSH says how ssh is run.
	SSH *sshexec.Options
	// Connections is how many are opened at most, as the number of requests grows;
	// 0 means 2.
	Connections int
	// Connect is the time to log in, for which people may have to type, and to agree
	// on SFTP; 0 means 2 minutes.
	Connect time.Duration
	// Stall is the time after which a connection is given up on which nothing moves
	// although an answer is due; 0 means 2 minutes. A server may take a while to
	// bring a large index to its disk.
	Stall time.Duration
	// Retries is how often a call is made again that failed because a connection
	// broke, and how often connecting anew is tried; 0 means 6, a negative number 0.
	Retries int
	// Backoff is the pause before the first retry, less up to half of it at random.
	// It doubles each time, up to 10 s; 0 means 200 ms.
	Backoff time.Duration

	// Log is told of broken connections and of what the server cannot do. Nil: nobody.
	Log *slog.Logger
}

// withDefaults returns a copy of o without zeros that stand for something else.
func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	d.MaxChunk = cmp.Or(d.MaxChunk, chunker.MaxSize)
	d.Level = cmp.Or(d.Level, cacnk.DefaultLevel)
	d.Connections = max(cmp.Or(d.Connections, 2), 1)
	d.Connect = cmp.Or(d.Connect, 2*time.Minute)
	d.Stall = cmp.Or(d.Stall, 2*time.Minute)
	d.Retries = max(cmp.Or(d.Retries, 6), 0)
	d.Backoff = cmp.Or(d.Backoff, 200*time.Millisecond)
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return d
}

// maxStored returns the greatest length of a chunk file that is read: the largest
// chunk, wrapped uncompressed.
func (o *Options) maxStored() int64 { return int64(o.MaxChunk) + int64(o.MaxChunk)>>8 + 1024 }
