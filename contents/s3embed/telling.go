package s3embed

import (
	"context"
	"errors"
	"log/slog"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

// telling is a directory whose errors are those of S3, all of them. The server
// prints any other on standard error, where it is in the way of the gateway's own
// log, and answers that something is wrong inside, even when a disk is full.
type telling struct {
	*directory
	log *slog.Logger
}

// told returns what a client is told of an error.
func (d telling) told(ctx context.Context, err error, operation string, key *string) error {
	if err == nil {
		return nil
	}
	if already, full := asAnswer(err); already != nil {
		if full {
			d.log.Warn("the disk of the file storage is full", "operation", operation, "key", aws.ToString(key), "err", err)
		}
		return already
	}
	level := slog.LevelError
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		level = slog.LevelDebug // whoever asked has left
	}
	d.log.Log(ctx, level, "the embedded S3 server failed", "operation", operation, "key", aws.ToString(key), "err", err)
	return s3err.GetAPIError(s3err.ErrInternalError)
}

// asAnswer returns an error as S3 has it, nil when S3 has none, and whether it is a
// full disk.
func asAnswer(err error) (answer s3err.S3Error, full bool) {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, s3err.GetAPIError(s3err.ErrQuotaExceeded)) {
		return s3err.GetAPIError(s3err.ErrNoSpaceLeftOnDevice), true
	}
	if errors.As(err, &answer) {
		return answer, errors.Is(err, s3err.GetAPIError(s3err.ErrNoSpaceLeftOnDevice))
	}
	return nil, false
}

func (d telling) HeadBucket(ctx context.Context, in *s3.HeadBucketInput) (*s3.HeadBucketOutput, error) {
	out, err := d.directory.HeadBucket(ctx, in)
	return out, d.told(ctx, err, "HeadBucket", in.Bucket)
}

func (d telling) HeadObject(ctx context.Context, in *s3.HeadObjectInput) (*s3.HeadObjectOutput, error) {
	out, err := d.directory.HeadObject(ctx, in)
	return out, d.told(ctx, err, "HeadObject", in.Key)
}

func (d telling) GetObject(ctx context.Context, in *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	out, err := d.directory.GetObject(ctx, in)
	return out, d.told(ctx, err, "GetObject", in.Key)
}

func (d telling) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input) (s3response.ListObjectsV2Result, error) {
	out, err := d.directory.ListObjectsV2(ctx, in)
	return out, d.told(ctx, err, "ListObjectsV2", in.Prefix)
}

func (d telling) ListObjectVersions(ctx context.Context, in *s3.ListObjectVersionsInput) (s3response.ListVersionsResult, error) {
	out, err := d.directory.ListObjectVersions(ctx, in)
	return out, d.told(ctx, err, "ListObjectVersions", in.Prefix)
}

func (d telling) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	out, err := d.directory.PutObject(ctx, in)
	return out, d.told(ctx, err, "PutObject", in.Key)
}

func (d telling) DeleteObject(ctx context.Context, in *s3.DeleteObjectInput) (*s3.DeleteObjectOutput, error) {
	out, err := d.directory.DeleteObject(ctx, in)
	return out, d.told(ctx, err, "DeleteObject", in.Key)
}

// DeleteObjects tells of each object that failed in the answer.
func (d telling) DeleteObjects(ctx context.Context, in *s3.DeleteObjectsInput) (s3response.DeleteResult, error) {
	out, err := d.directory.deleteObjects(ctx, in, func(err error, key *string) error {
		return d.told(ctx, err, "DeleteObjects", key)
	})
	return out, d.told(ctx, err, "DeleteObjects", nil)
}

func (d telling) CopyObject(ctx context.Context, in s3response.CopyObjectInput) (s3response.CopyObjectOutput, error) {
	out, err := d.directory.CopyObject(ctx, in)
	return out, d.told(ctx, err, "CopyObject", in.Key)
}
