package cli

import (
	"context"
	"net"
	"net/http"
	"time"
)

// serveMetrics serves what write writes on addr at /metrics, until ctx ends.
func serveMetrics(ctx context.Context, addr string, write func(http.ResponseWriter)) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		write(w)
	})
	s := &http.Server{
		Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
	}
	context.AfterFunc(ctx, func() { s.Close() })
	go s.Serve(l)
	return nil
}
