package assemble

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/atomicfile"
	"github.com/castorsync/castor/internal/blockdev"
	"github.com/castorsync/castor/store"
)

// FileOptions are the settings of [File].
type FileOptions struct {
	Options
	Seeds []Seed

	// InPlace updates an existing file where it is, so that no more space is
	// needed than for the larger of old and new. An update that is interrupted
	// leaves a mixture, which the next run completes. Block devices are always
	// updated in place.
	InPlace bool

	// Force writes to a block device that is in use, by a mounted file system
	// say.
	Force bool

	// NoSync does not wait until the file has reached the disk.
	NoSync bool

	// DryRun plans and writes nothing.
	DryRun bool

	Planning func(done, total int64) // progress of looking through seeds and destination
	Planned  func(*Plan)             // called with the plan before anything is written

	// Ready is called when new content is whole, and before it takes the place of an old
	// file, which stays if that is an error.
	Ready func() error
}

// File makes the file or block device path hold the content of x, using what it
// already holds. Without InPlace a regular file is replaced in one step when the
// new content is whole, verified and, unless NoSync is set, on disk; until then,
// and after any error, the old file stays as it is. A run that was killed leaves
// a temporary file, which the next run for the same path takes over.
func File(ctx context.Context, x *index.Index, path string, src store.Getter, o FileOptions) (Stats, error) {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return replace(ctx, x, path, nil, src, o)
	case err != nil:
		return Stats{}, err
	case blockdev.Is(fi.Mode()):
		return update(ctx, x, path, true, src, o)
	case !fi.Mode().IsRegular():
		return Stats{}, &fs.PathError{Op: "extract", Path: path, Err: errors.New("is neither a file nor a block device")}
	case o.InPlace:
		return update(ctx, x, path, false, src, o)
	}
	return replace(ctx, x, path, fi, src, o)
}

// replace writes a new file; old is nil if there is none.
func replace(ctx context.Context, x *index.Index, path string, old fs.FileInfo, src store.Getter, o FileOptions) (Stats, error) {
	closeOld := func() error { return nil }
	if old != nil {
		f, err := os.Open(path)
		if err != nil { // it is no seed, and can be replaced all the same
			old = nil
		} else {
			defer f.Close()
			closeOld = f.Close // before it is replaced, which some systems ask for
			o.Seeds = append([]Seed{{File: f, Size: old.Size()}}, o.Seeds...)
		}
	}
	if o.DryRun {
		_, err := o.plan(ctx, x, nil, old != nil)
		return Stats{}, err
	}
	out, err := atomicfile.Create(path, true)
	if err != nil {
		return Stats{}, err
	}
	defer out.Abort()
	left, err := out.Stat()
	if err != nil {
		return Stats{}, err
	}
	dst := Target{File: out.File, Fresh: left.Size() == 0}
	p, err := o.plan(ctx, x, &Dest{File: out.File, Size: left.Size()}, old != nil)
	if err != nil {
		return Stats{}, err
	}
	if old != nil && p.whole == 0 {
		if !o.NoSync { // who wrote it may not have
			err = o.Seeds[0].sync(out.Path())
		}
		return p.nothingToDo(), cmp.Or(context.Cause(ctx), err)
	}
	stats, err := p.Run(ctx, dst, src, &o.Options)
	if err != nil {
		return stats, err
	}
	if err := o.ready(); err != nil {
		return stats, err
	}
	closeOld()
	return stats, out.Commit(!o.NoSync)
}

func (o *FileOptions) ready() error {
	if o.Ready == nil {
		return nil
	}
	return o.Ready()
}

// update writes into an existing file or block device.
func update(ctx context.Context, x *index.Index, path string, device bool, src store.Getter, o FileOptions) (Stats, error) {
	flags := os.O_RDWR
	if device && !o.Force {
		flags |= blockdev.Exclusive
	}
	if o.DryRun {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return Stats{}, blockdev.Explain(err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Stats{}, err
	}
	if device && size < x.Size() {
		return Stats{}, &fs.PathError{Op: "extract", Path: path, Err: fmt.Errorf("device has %d bytes, the content %d", size, x.Size())}
	}
	if device {
		size = x.Size() // behind that it may hold anything, and much of it
	}
	p, err := o.plan(ctx, x, &Dest{File: f, Size: size}, false)
	if err != nil || o.DryRun {
		return Stats{}, err
	}
	stats, err := p.Run(ctx, Target{File: f, Fixed: device}, src, &o.Options)
	if err == nil {
		err = o.ready()
	}
	if err != nil {
		return stats, err
	}
	if !o.NoSync {
		if err := f.Sync(); err != nil {
			return stats, err
		}
	}
	return stats, f.Close()
}

// plan makes the plan. old says that the first seed is the file to be replaced.
func (o *FileOptions) plan(ctx context.Context, x *index.Index, d *Dest, old bool) (*Plan, error) {
	p, err := NewPlan(ctx, x, &PlanOptions{Dest: d, Seeds: o.Seeds, Progress: o.Planning, old: old})
	if err == nil && o.Planned != nil {
		o.Planned(p)
	}
	return p, err
}

// sync makes a seed durable that is the file of that name.
func (s *Seed) sync(path string) error {
	err := s.File.(*os.File).Sync()
	if errors.Is(err, fs.ErrPermission) { // where only those sync who may write
		err = nil
	}
	return cmp.Or(err, atomicfile.SyncDir(filepath.Dir(path)))
}

// nothingToDo returns the stats of a destination that is right as it is.
func (p *Plan) nothingToDo() (s Stats) {
	s.By[Keep] = Part{Chunks: len(p.Index.Entries), Bytes: p.Index.Size()}
	return s
}
