package transfer_test

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/castorsync/castor/store/transfer"
)

func TestServers(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, tt := range []struct {
		err  error
		gone bool
	}{
		{dial, true},
		{fmt.Errorf("get: %w", dial), true},
		{&net.OpError{Op: "proxyconnect", Net: "tcp", Err: dial}, true},
		{&net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}, false},
		{errors.New("any"), false},
		{nil, false},
	} {
		var all transfer.Servers
		s := all.Server("http://a")
		if got := s.Gone(tt.err); got != tt.gone {
			t.Errorf("Gone(%v) = %v, want %v", tt.err, got, tt.gone)
		}
		if all.Server("http://a").Answered(); s.Gone(tt.err) {
			t.Errorf("Gone(%v) of a server that has answered", tt.err)
		}
		if got := all.Server("http://b").Gone(tt.err); got != tt.gone {
			t.Errorf("Gone(%v) of another server = %v, want %v", tt.err, got, tt.gone)
		}
		if got := (*transfer.Servers)(nil).Server("http://a").Gone(tt.err); got != tt.gone {
			t.Errorf("Gone(%v) of one that stands alone = %v, want %v", tt.err, got, tt.gone)
		}
	}
}
