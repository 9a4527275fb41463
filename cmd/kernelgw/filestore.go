package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"kernelgw/contents"
	"kernelgw/contents/s3embed"
	"kernelgw/contents/s3store"
)

// StorageConfig says where files are kept.
type StorageConfig struct {
	Storage    string `help:"Where files are kept: embedded (in the data directory), or s3 (a bucket with versioning; credentials come from AWS's usual places, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)." enum:"embedded,s3" default:"embedded"`
	StorageDir string `help:"Directory of the embedded storage. Default: storage in the data directory. Its file system needs extended attributes." type:"path"`
	S3Endpoint string `name:"s3-endpoint" help:"URL of the S3 server. Default: AWS's in the region."`
	S3Bucket   string `name:"s3-bucket" help:"Bucket. It must exist and have versioning on: kernelgw storage doctor looks."`
	S3Prefix   string `name:"s3-prefix" help:"What all keys in the bucket begin with, as in kernelgw/."`
	S3Region   string `name:"s3-region" help:"Region of the bucket." default:"us-east-1"`

	Quota      ByteSize `help:"Bytes that each workspace may hold, old versions included; 0 means no limit." default:"0"`
	MaxFile    ByteSize `help:"Largest file that may be uploaded." default:"5GiB"`
	SyncIgnore []string `help:"Names of files and directories that stay in the sandbox, with * and ?, beside .venv, node_modules, caches and the like."`
	SyncMax    ByteSize `help:"Largest file that goes from a sandbox into the workspace and back." default:"2GiB"`

	KeepVersions time.Duration `help:"How long every version of a file is kept. The current version and checkpoints are kept always." default:"24h"`
	KeepHourly   time.Duration `help:"How long one version of each hour is kept." default:"168h"`
	KeepDaily    time.Duration `help:"How long one version of each day is kept." default:"720h"`
	KeepTrash    time.Duration `help:"How long deleted files can be brought back." default:"720h"`
}

// validate names the first key that is wrong, and what to do about it.
func (c *StorageConfig) validate() error {
	if c.Storage == "s3" && c.S3Bucket == "" {
		return errors.New("s3_bucket: storage s3 needs a bucket; name it, or keep files in the data directory with storage: embedded")
	}
	if c.Storage != "s3" && (c.S3Bucket != "" || c.S3Endpoint != "") {
		return errors.New("s3_bucket, s3_endpoint: they count with storage: s3 only; set that, or remove them")
	}
	if u, err := url.Parse(c.S3Endpoint); c.S3Endpoint != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
		return fmt.Errorf("s3_endpoint: %q is no URL like https://s3.example.org", c.S3Endpoint)
	}
	if c.S3Prefix != "" && (!strings.HasSuffix(c.S3Prefix, "/") || strings.HasPrefix(c.S3Prefix, "/") || len(c.S3Prefix) > maxPrefix) {
		return fmt.Errorf("s3_prefix: %q is not like kernelgw/: it ends with a slash, does not begin with one, and has at most %d bytes", c.S3Prefix, maxPrefix)
	}
	for key, d := range map[string]time.Duration{
		"keep_versions": c.KeepVersions, "keep_hourly": c.KeepHourly, "keep_daily": c.KeepDaily, "keep_trash": c.KeepTrash,
	} {
		if d < time.Minute {
			return fmt.Errorf("%s: %v is too short; at least 1m", key, d)
		}
	}
	for _, pattern := range c.SyncIgnore {
		if _, err := path.Match(pattern, ""); err != nil || strings.Contains(pattern, "/") {
			return fmt.Errorf("sync_ignore: %q is no pattern of a name, like *.tmp", pattern)
		}
	}
	if c.MaxFile < 1<<20 {
		return errors.New("max_file: too small to work with; at least 1MiB")
	}
	return nil
}

// maxPrefix leaves room in a key for the longest path.
const maxPrefix = 40

// bucket is an S3 bucket that can be reached.
type bucket struct {
	client *s3.Client
	name   string
	prefix string
	own    bool // it is the embedded one
	close  func() error
}

// openBucket starts the embedded S3 server, or finds the configured one. Close
// it.
func openBucket(ctx context.Context, c *Config, log *slog.Logger) (bucket, error) {
	if c.Storage == "s3" {
		return configuredBucket(ctx, c)
	}
	dir := cmp.Or(c.StorageDir, filepath.Join(c.DataDir, "storage"))
	server, err := s3embed.Start(ctx, dir, log)
	if err != nil {
		return bucket{}, fmt.Errorf("%w; choose another directory with --storage-dir, or an S3 server with --storage s3", err)
	}
	client := s3store.NewClient(s3store.Access{
		Endpoint: server.Endpoint, Region: server.Region, AccessKey: server.AccessKey, SecretKey: server.SecretKey,
		HTTPClient: server.HTTPClient,
	})
	return bucket{client: client, name: server.Bucket, own: true, close: server.Close}, nil
}

// configuredBucket returns the bucket of the configuration.
func configuredBucket(ctx context.Context, c *Config) (bucket, error) {
	aws, err := config.LoadDefaultConfig(ctx, config.WithRegion(c.S3Region))
	if err != nil {
		return bucket{}, fmt.Errorf("cannot find credentials for S3: %w; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", err)
	}
	client := s3store.NewClient(s3store.Access{Endpoint: c.S3Endpoint, Region: c.S3Region})
	o := client.Options()
	o.Credentials = aws.Credentials
	return bucket{client: s3.New(o), name: c.S3Bucket, prefix: c.S3Prefix, close: func() error { return nil }}, nil
}

// files is the storage, and what else must be closed with it.
type files struct {
	*s3store.Store
	bucket bucket
}

// openFiles opens the storage. Close it.
func openFiles(ctx context.Context, c *Config, log *slog.Logger) (files, error) {
	b, err := openBucket(ctx, c, log)
	if err != nil {
		return files{}, err
	}
	store, err := s3store.New(ctx, s3store.Options{
		Client: b.client, Bucket: b.name, Prefix: b.prefix, QuotaBytes: int64(c.Quota), OwnServer: b.own, Log: log,
		Retention: s3store.Retention{All: c.KeepVersions, Hourly: c.KeepHourly, Daily: c.KeepDaily, Trash: c.KeepTrash},
	})
	if err != nil {
		return files{}, errors.Join(err, b.close())
	}
	return files{store, b}, nil
}

// Close closes the store, then what is below it.
func (f files) Close() error { return errors.Join(f.Store.Close(), f.bucket.close()) }

// isDirectory tells the front end what a path is.
func isDirectory(store contents.Store) func(ctx context.Context, workspace, path string) (bool, error) {
	return func(ctx context.Context, workspace, path string) (bool, error) {
		clean, err := contents.Clean(path)
		if err != nil {
			return false, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
		}
		e, err := store.Stat(ctx, workspace, clean)
		if errors.Is(err, contents.ErrNotFound) {
			return false, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
		}
		return e.Directory, err
	}
}
