package s3store_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/pkg/xattr"

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

// scratch is a directory for storages of tests.
var scratch string

// memoryDir is a directory in memory whose files have extended attributes, or ""
// where there is none. What is tested is what a kill does, and not the disk: each
// save is synced, and thousands of them are made.
func memoryDir() string {
	const dir = "/dev/shm"
	probe, err := os.CreateTemp(dir, "s3store-*")
	if err != nil {
		return ""
	}
	defer os.Remove(probe.Name())
	defer probe.Close()
	if err := xattr.FSet(probe, "user.test", make([]byte, 2048)); err != nil {
		return ""
	}
	return dir
}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if task := os.Getenv(crashTask); task != "" {
		if err := runCrashTask(task); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	dir, err := os.MkdirTemp(memoryDir(), "s3store-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = filepath.Join(dir, "scratch")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server, err := s3embed.Start(context.Background(), filepath.Join(dir, "embedded"), nil)
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
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
