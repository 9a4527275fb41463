package s3store_test

import (
	"context"
	"crypto/rand"
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
