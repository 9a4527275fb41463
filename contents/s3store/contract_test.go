package s3store_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"kernelgw/contents"
	"kernelgw/contents/contentstest"
	"kernelgw/contents/s3store"
)

// open returns a store on a server, with keys that no other test has.
func (at target) open(t *testing.T, change ...func(*s3store.Options)) *s3store.Store {
	t.Helper()
	return at.openAt(t, "test-"+rand.Text()+"/", change...)
}

func (at target) openAt(t *testing.T, prefix string, change ...func(*s3store.Options)) *s3store.Store {
	t.Helper()
	o := s3store.Options{Client: at.client, Bucket: at.bucket, Prefix: prefix, Retention: s3store.Retention{Every: -1}}
	for _, c := range change {
		c(&o)
	}
	s, err := s3store.New(ctxOf(t), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-ran; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func (at target) contract(t *testing.T) {
	contentstest.Run(t, func(t *testing.T, limit int64) contents.Store {
		return at.open(t, func(o *s3store.Options) { o.QuotaBytes = limit })
	})
	contentstest.RunDocuments(t, func(t *testing.T) contents.Documents { return at.open(t) })
}

func TestStoreOnTheEmbeddedServer(t *testing.T) { embedded.contract(t) }

// damaging is a link that changes a byte of what is written, once it is told to.
type damaging struct {
	on   http.RoundTripper
	does atomic.Bool
}

// RoundTrip implements http.RoundTripper.
func (d *damaging) RoundTrip(r *http.Request) (*http.Response, error) {
	if d.does.Load() && r.Method == http.MethodPut && r.ContentLength > 0 {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body[len(body)/2] ^= 1
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	return d.on.RoundTrip(r)
}

// What is not signed is checked all the same: nothing damaged is ever kept.
func TestADamagedWriteIsRefused(t *testing.T) {
	good := embedded.openAt(t, "test-damaged/", func(o *s3store.Options) { o.OwnServer = true })
	ctx := ctxOf(t)
	if err := put(ctx, good, "w", "f", "first", contents.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, own := range []bool{true, false} {
		at := embedded
		link := &damaging{on: at.access.HTTPClient.Transport}
		at.access.HTTPClient = &http.Client{Transport: link}
		at.client = s3store.NewClient(at.access)
		s := at.openAt(t, "test-damaged/", func(o *s3store.Options) { o.OwnServer = own })
		link.does.Store(true)
		if err := put(ctx, s, "w", "f", "second", contents.PutOptions{}); err == nil {
			t.Errorf("a damaged write was taken, OwnServer is %v", own)
		}
	}
	if err := versionsAre(ctx, good, "w", "f", "first"); err != nil {
		t.Error(err)
	}
}
