package tree

import (
	"io"

	"github.com/castorsync/castor/archive"
)

// Part returns one node of an archive as a [Source]: a tree whose root, of which
// nothing is said, holds that node under its own name. So what else is there is left
// alone, even to be deleted. The archive's root is itself.
func Part(f archive.Features, it *archive.Item) Source {
	if it.Path == "" {
		return archive.NewReader(it.Records())
	}
	p := &part{f: f, it: it}
	if it.Node.IsDir() {
		p.below = archive.NewReader(it.Records())
	}
	return p
}

type part struct {
	f     archive.Features
	it    *archive.Item
	below *archive.Reader // of a directory
	file  io.Reader       // of a file
	step  int             // of what is said around the node
}

func (p *part) Features() archive.Features { return p.f }

func (p *part) Next() (archive.Entry, error) {
	switch {
	case p.step == 0:
		p.step = 1
		return archive.Entry{Node: &archive.Node{}}, nil
	case p.step == 1 && p.below == nil:
		p.step = 2
		p.file = p.it.Content()
		start, _ := p.it.Range()
		return archive.Entry{Path: p.it.Name(), Node: p.it.Node, Offset: start}, nil
	case p.step == 1:
		e, err := p.below.Next()
		if err == nil {
			start, _ := p.it.Range()
			e.Offset += start
			if e.Path == "" {
				e.Path = p.it.Name()
			} else {
				e.Path = p.it.Name() + "/" + e.Path
			}
			return e, nil
		}
		if err != io.EOF {
			return e, err
		}
		fallthrough
	case p.step == 2:
		p.step = 3
		return archive.Entry{}, nil
	}
	return archive.Entry{}, io.EOF
}

func (p *part) Read(b []byte) (int, error) {
	if p.below != nil {
		return p.below.Read(b)
	}
	return p.file.Read(b)
}
