package assemble

import (
	"context"
	"io"

	"github.com/castorsync/castor/store"
)

// Stream writes n bytes of the content from off on to w, in order, for pipes and
// the like; n < 0 means to the end. It is a [Reader] that is read to its end: w may
// have got a part of the content after an error, and never a wrong byte.
func (p *Plan) Stream(ctx context.Context, w io.Writer, off, n int64, src store.Getter, o *Options) (Stats, error) {
	r := p.NewReader(ctx, off, n, src, o)
	defer r.Close()
	_, err := r.WriteTo(w)
	return r.Stats(), err
}
