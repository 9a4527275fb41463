package s3store_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"kernelgw/contents/s3embed"
	"kernelgw/contents/s3store"
)

// target is a server that tests run against.
type target struct {
	client *s3.Client
	access s3store.Access
	bucket string
}

// embedded is the server in this program: there can be one.
var embedded target

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "s3store-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	server, err := s3embed.Start(context.Background(), dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer server.Close()
	embedded.access = s3store.Access{
		Endpoint: server.Endpoint, Region: server.Region, AccessKey: server.AccessKey, SecretKey: server.SecretKey, HTTPClient: server.HTTPClient,
	}
	embedded.client, embedded.bucket = s3store.NewClient(embedded.access), server.Bucket
	return m.Run()
}

func ctxOf(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
