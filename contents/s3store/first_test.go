package s3store_test

import (
	"io"
	"strings"
	"testing"

	"kernelgw/contents"
	"kernelgw/contents/s3store"
)

func TestFirst(t *testing.T) {
	ctx := ctxOf(t)
	r, err := s3store.Probe(ctx, embedded.client, embedded.bucket, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Logf("%v %v %s: %s", f.OK, f.Required, f.Name, f.Detail)
	}
	s, err := s3store.New(ctx, s3store.Options{Client: embedded.client, Bucket: embedded.bucket})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	t.Log(s.MakeDirectory(ctx, "w", "a/b"))
	e, err := s.Put(ctx, "w", "a/b/c!.txt", strings.NewReader("hello"), contents.PutOptions{Author: "Jos\u00e9"})
	t.Logf("%+v %v", e, err)
	e, err = s.Put(ctx, "w", "a/b/c!.txt", strings.NewReader("hello2"), contents.PutOptions{Author: "Jos\u00e9", IfMatch: e.ETag})
	t.Logf("%+v %v", e, err)
	t.Log(s.List(ctx, "w", "a/b"))
	t.Log(s.List(ctx, "w", ""))
	t.Log(s.List(ctx, "w", "x"))
	t.Log(s.Stat(ctx, "w", "a"))
	t.Log(s.Put(ctx, "w", "a", strings.NewReader("hello2"), contents.PutOptions{}))
	t.Log(s.Put(ctx, "w", "x/y", strings.NewReader("hello2"), contents.PutOptions{}))
	body, e, err := s.Open(ctx, "w", "a/b/c!.txt", "", 1, 3)
	t.Log(e, err)
	b, err := io.ReadAll(body)
	t.Log(string(b), err)
	t.Log(s.Usage(ctx, "w"))
	t.Log(s.PutDocument(ctx, "me", "a/b", []byte("x")))
	t.Log(s.ListDocuments(ctx, "me", ""))
	t.Log(s.GetDocument(ctx, "me", "a/b"))
}
