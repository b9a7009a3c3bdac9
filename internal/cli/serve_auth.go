package cli

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
)

// tokenFile is a file with tokens, one a line. It may be read again while the tokens
// are in use.
type tokenFile struct {
	name string // "": none
	now  atomic.Pointer[[]string]
}

// list returns the tokens.
func (t *tokenFile) list() []string {
	if p := t.now.Load(); p != nil {
		return *p
	}
	return nil
}

// load reads the file. Empty lines do not count, but without any token it is an error:
// nobody would be let in.
func (t *tokenFile) load() error {
	if t.name == "" {
		return nil
	}
	b, err := os.ReadFile(t.name)
	if err != nil {
		return fmt.Errorf("--auth-token-file: %w", err)
	}
	var tokens []string
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		if token := strings.TrimSpace(lines.Text()); token != "" {
			tokens = append(tokens, token)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("--auth-token-file: %s: %w", t.name, err)
	}
	if len(tokens) == 0 {
		return fmt.Errorf("--auth-token-file: %s: no token in it", t.name)
	}
	t.now.Store(&tokens)
	return nil
}

// serveTLS is the server's side of TLS. Its files may be read again while connections
// are made: new ones take what was read last.
type serveTLS struct {
	cert, key, clientCA string // names of files; "": none
	now                 atomic.Pointer[tls.Config]
}

// load reads the files.
func (t *serveTLS) load() error {
	if t.cert == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(t.cert, t.key)
	if err != nil {
		return fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	c := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"}, // one request at a time, so that what bounds connections bounds requests
		Certificates: []tls.Certificate{pair},
	}
	if t.clientCA != "" {
		pem, err := os.ReadFile(t.clientCA)
		if err != nil {
			return fmt.Errorf("--client-ca: %w", err)
		}
		c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !c.ClientCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("--client-ca: %s: no certificate in it", t.clientCA)
		}
		c.SessionTicketsDisabled = true // each connection is judged by the authorities of now
	}
	t.now.Store(c)
	return nil
}

// listener returns l with TLS, if there is to be any.
func (t *serveTLS) listener(l net.Listener) net.Listener {
	if t.cert == "" {
		return l
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.now.Load(), nil },
	})
}
