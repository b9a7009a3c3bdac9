package transfer

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// Server is what is known of a server. It is safe for concurrent use.
type Server struct{ answered atomic.Bool }

// Answered notes that the server has answered a request, whatever it said.
func (s *Server) Answered() { s.answered.Store(true) }

// Gone reports whether err says that there is no connection to a server which has never
// answered. It is not worth waiting for: more likely than not its name is wrong, or
// nobody has started it. One that has answered may be about to start again.
func (s *Server) Gone(err error) bool { return !s.answered.Load() && unconnected(err) }

// unconnected reports whether err is about making a connection, be it to a proxy.
func unconnected(err error) bool {
	for {
		o, ok := errors.AsType[*net.OpError](err)
		if !ok {
			return false
		}
		if o.Op == "dial" {
			return true
		}
		err = o.Err
	}
}

// Servers are the servers of several clients. The zero value is ready for use, and nil
// knows none. It is safe for concurrent use.
type Servers struct {
	mu  sync.Mutex
	all map[string]*Server // guarded by mu
}

// Server returns what is known of the server of that name.
func (s *Servers) Server(name string) *Server {
	if s == nil {
		return new(Server)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.all[name]
	if one == nil {
		one = new(Server)
		if s.all == nil {
			s.all = map[string]*Server{}
		}
		s.all[name] = one
	}
	return one
}
