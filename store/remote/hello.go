package remote

import (
	"fmt"
	"io"
	"strings"
)

// compatible reports, as an error, what one side wants and the other does not have,
// or that nobody wants anything.
func compatible(client, server features) error {
	wants := features(0)
	for _, n := range needs {
		wants |= n.operation
		if client&n.operation != 0 && server&n.service == 0 {
			return protocolError("the client wants to %s, and the server has no such thing", n.operation.verb())
		}
	}
	switch {
	case client&wants == 0:
		return protocolError("the client wants nothing")
	case client&pushIndexChunks != 0 && client&(pushIndex|pushChunks) != pushIndex|pushChunks:
		return protocolError("the client wants the chunks of an index fetched, and does not send both")
	case server&wants != 0:
		return protocolError("the server wants something")
	}
	return nil
}

// verb says what an operation does.
func (f features) verb() string {
	switch f {
	case pullChunks:
		return "pull chunks"
	case pullIndex:
		return "pull an index"
	case pullArchive:
		return "pull an archive"
	case pushChunks:
		return "push chunks"
	case pushIndex:
		return "push an index"
	case pushArchive:
		return "push an archive"
	}
	return fmt.Sprintf("operation %#x", uint64(f))
}

// greet says HELLO on w, and hears it. What is heard tells more than an error of w: of one
// who has said what he can do and left, it is known what he cannot.
func (d *decoder) greet(w io.Writer, wants features) (features, error) {
	w.Write(appendHello(nil, wants))
	return d.hello()
}

// hello reads the first frame, which must be HELLO with known features.
func (d *decoder) hello() (features, error) {
	f, err := d.next()
	switch {
	case err != nil:
		return 0, err
	case f.kind == kindAbort:
		return 0, f.abort
	case f.kind != kindHello:
		return 0, protocolError("%v before HELLO", f.kind)
	case f.features == 0 || f.features&^(casyncFeatures|featureOffer) != 0:
		return 0, protocolError("HELLO with features %#x", uint64(f.features))
	}
	return f.features, nil
}

// verbs lists the operations among f.
func (f features) verbs() string {
	s := "the client wants to "
	for _, n := range needs {
		if f&n.operation != 0 {
			s += n.operation.verb() + ", "
		}
	}
	return strings.TrimSuffix(s, ", ")
}
