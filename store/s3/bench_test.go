package s3_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/internal/tests3"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// bare is minio-go as its documentation has it, with connections kept for all
// workers.
func bare(b *testing.B, g *tests3.Server) *minio.Core {
	b.Helper()
	tr, err := minio.DefaultTransport(false)
	if err != nil {
		b.Fatal(err)
	}
	tr.MaxIdleConnsPerHost = 128
	c, err := minio.NewCore(g.Addr, &minio.Options{
		Creds: credentials.NewStaticV4(tests3.AccessKey, tests3.SecretKey, ""), Region: "us-east-1", Transport: tr,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(tr.CloseIdleConnections)
	return c
}

// BenchmarkTransfer moves chunks of 64 KiB with 16 workers through a Store and, in
// turn, through a bare loop over minio-go. The ratio is the Store's speed by that of
// the loop: above 1, the Store is faster.
func BenchmarkTransfer(b *testing.B) {
	const workers, round, size = 16, 400, 64 << 10
	g := tests3.Start(b)
	c := bare(b, g)
	o := keyed()
	o.Plain = true // what is compressed moves the same way, but shorter
	chunks := make([]store.Chunk, round)
	for i := range chunks {
		chunks[i] = storetest.Plain(storetest.Random(uint64(i), size))
	}
	key := func(n, i int) string { return fmt.Sprintf("bare/%d/%s", n, chunks[i].ID) }
	run := func(b *testing.B, ours, theirs func(ctx context.Context, n, i int) error) {
		var spent [2]time.Duration
		n := 0
		for b.Loop() {
			for turn := range 2 {
				which := (turn + n) % 2 // each goes first every other time
				begin := time.Now()
				err := par.Each(b.Context(), workers, round, func(ctx context.Context, i int) error {
					if which == 0 {
						return ours(ctx, n, i)
					}
					return theirs(ctx, n, i)
				})
				if err != nil {
					b.Fatal(err)
				}
				spent[which] += time.Since(begin)
			}
			n++
		}
		b.ReportMetric(float64(n*round)/spent[0].Seconds(), "chunks/s")
		b.ReportMetric(float64(n*round)/spent[1].Seconds(), "bare/s")
		b.ReportMetric(float64(spent[1])/float64(spent[0]), "ratio")
		b.ReportMetric(0, "ns/op")
	}
	b.Run("upload", func(b *testing.B) {
		s := open(b, g.URL("store"), o)
		run(b, func(ctx context.Context, n, i int) error {
			// A chunk of another name each time, for nobody checks that here.
			x := chunks[i]
			x.ID[0], x.ID[1], x.ID[2] = byte(n), byte(n>>8), byte(b.N)
			return s.Put(ctx, x)
		}, func(ctx context.Context, n, i int) error {
			_, err := c.Client.PutObject(ctx, "bucket", key(n, i), bytes.NewReader(chunks[i].Data), size, minio.PutObjectOptions{})
			return err
		})
	})
	s := open(b, g.URL("download"), o)
	for i, x := range chunks {
		if err := s.Put(b.Context(), x); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Client.PutObject(b.Context(), "bucket", key(0, i), bytes.NewReader(x.Data), size, minio.PutObjectOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	ours := func(ctx context.Context, _, i int) error {
		x, err := s.Get(ctx, chunks[i].ID)
		x.Release()
		return err
	}
	b.Run("download", func(b *testing.B) {
		run(b, ours, func(ctx context.Context, _, i int) error {
			r, err := c.Client.GetObject(ctx, "bucket", key(0, i), minio.GetObjectOptions{})
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(io.Discard, r)
			return err
		})
	})
	b.Run("download/core", func(b *testing.B) {
		run(b, ours, func(ctx context.Context, _, i int) error {
			r, info, _, err := c.GetObject(ctx, "bucket", key(0, i), minio.GetObjectOptions{})
			if err != nil {
				return err
			}
			defer r.Close()
			buf := bufpool.Get(int(info.Size))
			defer bufpool.Put(buf)
			_, err = io.ReadFull(r, buf)
			return err
		})
	})
}
