package blob

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bitset"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/sparse"
)

// mapSuffix is the end of the name of the file beside an image that says which
// entries of the index it has:
//
//	16 bytes  mapMagic
//	 8 bytes  number of entries, little-endian like all that follows
//	 8 bytes  zero
//	32 bytes  root of the index
//	then      a bit for each entry in words of 8 bytes, the least significant first
//
// A bit is set on disk only after the content it stands for is there. It is a claim
// all the same: what is read from an image is verified each time.
const mapSuffix = ".castor-map"

const (
	mapMagic  = "castor image 1\r\n"
	mapHeader = 64 // bytes
)

// saveEvery is how often what has come into an image is put on disk for good.
const saveEvery = 5 * time.Second

// Image is a local file that is filled with the content of an index as that is
// read, and takes the place of the stores for what it has. It is as long as the
// content and has holes where nothing has been read yet. After a crash it goes on with
// what was on disk. It is safe for concurrent use.
type Image struct {
	x       *index.Index
	f       *os.File
	bits    *os.File
	log     *slog.Logger
	have    bitset.Set   // entries that f has, as far as is known
	left    atomic.Int64 // entries that are not in have
	damaged atomic.Bool  // something in f was not right, so that holes may be none
	full    atomic.Bool  // f cannot be written any more
	changed atomic.Bool  // have is not what bits says

	saving sync.Mutex // held while something is put on disk
	stop   chan struct{}
	done   chan struct{}
	wake   chan struct{} // all is there
}

// OpenImage opens the image of x in the file name, and makes it if there is none.
// Another process that has it open is an error, and so is a file that is no image
// of x. The log is told when the image is complete or cannot be written; it may be nil.
// The caller closes the image, after the Blob that uses it.
func OpenImage(name string, x *index.Index, log *slog.Logger) (*Image, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m := &Image{
		x: x, log: log.With("image", name), have: bitset.New(len(x.Entries)),
		stop: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	if err := m.open(name); err != nil {
		m.closeFiles()
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	m.left.Store(int64(len(x.Entries) - m.have.Count()))
	go m.saveOften()
	return m, nil
}

func (m *Image) open(name string) (err error) {
	if m.bits, err = os.OpenFile(name+mapSuffix, os.O_RDWR|os.O_CREATE, 0o666); err != nil {
		return err
	}
	if err := lockFile(m.bits); err != nil {
		return errors.New("in use by another castor")
	}
	known, err := m.load()
	if err != nil {
		return fmt.Errorf("%s: %w", name+mapSuffix, err)
	}
	_, err = os.Lstat(name)
	switch missing := errors.Is(err, fs.ErrNotExist); {
	case !known && !missing:
		os.Remove(name + mapSuffix) // just made
		return errors.New("exists and is no image that was begun: name another file, or remove it")
	case missing: // whatever the map says
		m.have = bitset.New(len(m.x.Entries))
		if err := m.bits.Truncate(0); err != nil {
			return err
		}
		if err := m.saveMap(m.header()); err != nil { // so that the file is known as an image once it is there
			return err
		}
	}
	if m.f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666); err != nil {
		return err
	}
	if err := m.f.Truncate(m.x.Size()); err != nil {
		return err
	}
	return m.save()
}

// load reads the map, if there is one.
func (m *Image) load() (known bool, err error) {
	b := make([]byte, mapHeader+8*len(m.have))
	n, err := m.bits.ReadAt(b, 0)
	if n == 0 && err == io.EOF {
		return false, nil
	}
	if err != nil && err != io.EOF {
		return false, err
	}
	if n < mapHeader || string(b[:len(mapMagic)]) != mapMagic {
		return false, errors.New("is no map of an image")
	}
	if !bytes.Equal(b[:mapHeader], m.header()) {
		return false, errors.New("is of another index: remove it and the image, or name another file")
	}
	for i := range m.have { // what is missing at the end is zero
		m.have[i].Store(binary.LittleEndian.Uint64(b[mapHeader+8*i:]))
	}
	for i := len(m.x.Entries); i < 64*len(m.have); i++ {
		m.have.Remove(i)
	}
	return true, nil
}

func (m *Image) header() []byte {
	root := m.x.Root()
	b := append(make([]byte, 0, mapHeader), mapMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(m.x.Entries)))
	b = binary.LittleEndian.AppendUint64(b, 0)
	return append(b, root[:]...)
}

// Close puts on disk what the image has. Nobody may use it any more.
func (m *Image) Close() error {
	close(m.stop)
	<-m.done
	err := m.save()
	m.closeFiles()
	if err != nil {
		return fmt.Errorf("image %w", err)
	}
	return nil
}

func (m *Image) closeFiles() {
	for _, f := range []*os.File{m.f, m.bits} {
		if f != nil {
			f.Close()
		}
	}
}

// Verify reads all that the image has, in workers goroutines. What is not right there is
// lacking from then on.
func (m *Image) Verify(ctx context.Context, workers int, progress func(done int64)) error {
	var g errgroup.Group
	g.SetLimit(workers)
	var done atomic.Int64
	for i := range m.x.Entries {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			b := bufpool.Get(m.x.Len(i))
			m.get(i, b)
			bufpool.Put(b)
			progress(done.Add(int64(m.x.Len(i))))
			return nil
		})
	}
	g.Wait()
	return context.Cause(ctx)
}

// File returns the open file. Whatever it lacks may be written at any time.
func (m *Image) File() *os.File { return m.f }

// Left returns how many entries of the index the image lacks.
func (m *Image) Left() int { return int(m.left.Load()) }

// lacks reports whether entry i is not in the image.
func (m *Image) lacks(i int) bool { return !m.have.Has(i) }

// get reads entry i into b, and says whether it is there and right.
func (m *Image) get(i int, b []byte) bool {
	if m.lacks(i) {
		return false
	}
	_, err := m.f.ReadAt(b, m.x.Start(i))
	if err == nil && m.x.Digest().Sum(b) == m.x.Entries[i].ID {
		return true
	}
	m.damaged.Store(true)
	m.log.Warn("a part of the image is damaged and is got again", "offset", m.x.Start(i), "error", err)
	m.set(i, false)
	return false
}

// put writes the verified content of entry i. A failure ends the filling, but not
// the reading.
func (m *Image) put(i int, b []byte) {
	if m.full.Load() {
		return
	}
	off := m.x.Start(i)
	if m.damaged.Load() || !sparse.IsZero(b) {
		if _, err := m.f.WriteAt(b, off); err != nil {
			if !m.full.Swap(true) {
				m.log.Warn("the image is not filled any further", "error", err)
			}
			return
		}
	}
	m.set(i, true)
}

// set takes down whether the image has entry i.
func (m *Image) set(i int, has bool) {
	bit := uint64(1) << (i & 63)
	var old uint64
	if has {
		old = m.have[i>>6].Or(bit)
	} else {
		old = m.have[i>>6].And(^bit)
	}
	switch had := old&bit != 0; {
	case has == had:
		return
	case had:
		m.left.Add(1)
	default:
		if m.left.Add(-1) == 0 {
			select {
			case m.wake <- struct{}{}:
			default:
			}
		}
	}
	m.changed.Store(true)
}

// saveOften saves from time to time, until the image is closed.
func (m *Image) saveOften() {
	defer close(m.done)
	t := time.NewTicker(saveEvery)
	defer t.Stop()
	for {
		complete := false
		select {
		case <-m.stop:
			return
		case <-m.wake:
			complete = true
		case <-t.C:
			if !m.changed.Load() {
				continue
			}
		}
		if err := m.save(); err != nil {
			m.log.Warn("the image could not be put on disk", "error", err)
		} else if complete {
			m.log.Info("the image is complete: the stores are needed no more")
		}
	}
}

// save puts the content on disk, and then what the map says of it.
func (m *Image) save() error {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.changed.Store(false)
	b := m.header()
	for i := range m.have {
		b = binary.LittleEndian.AppendUint64(b, m.have[i].Load())
	}
	err := m.f.Sync()
	if err == nil {
		err = m.saveMap(b)
	}
	if err != nil {
		m.changed.Store(true)
	}
	return err
}

func (m *Image) saveMap(b []byte) error {
	if _, err := m.bits.WriteAt(b, 0); err != nil {
		return err
	}
	return m.bits.Sync()
}
