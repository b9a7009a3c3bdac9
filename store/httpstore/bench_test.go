package httpstore_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/httpstore"
	"github.com/castorsync/castor/store/storetest"
)

// BenchmarkVersions gets 500 chunks of 64 KiB by HTTP/1.1 and HTTP/2, both through TLS,
// several at once.
func BenchmarkVersions(b *testing.B) {
	const size = 64 << 10
	d, _ := openDir(b, dir.Options{})
	chunks := make([]store.Chunk, 500)
	for i := range chunks {
		chunks[i] = storetest.Chunk(uint64(i), size)
	}
	fill(b, d, chunks...)
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = httpstore.Server(handler(b, httpstore.HandlerOptions{Source: d}), nil)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	b.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	for _, n := range []int{1, 8, 64} {
		for _, http2 := range []bool{false, true} {
			b.Run(fmt.Sprintf("parallel=%d/http2=%v", n, http2), func(b *testing.B) {
				s := open(b, srv.URL, &httpstore.Options{HTTP2: http2, TLS: &tls.Config{RootCAs: roots}})
				b.SetBytes(int64(size * len(chunks)))
				for b.Loop() {
					err := par.Each(b.Context(), n, len(chunks), func(ctx context.Context, i int) error {
						c, err := s.Get(ctx, chunks[i].ID)
						c.Release()
						return err
					})
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
