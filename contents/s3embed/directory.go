package s3embed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

// directory is the backend with one bucket, for the requests that a store of
// versioned objects makes; any other is not implemented. It differs from
// versity's own in what is a repair:
//
//   - what is answered is on the disk: the original syncs nothing, see durable.go;
//   - a delete is one step: the original marks the file in place, so that a
//     program that is killed loses a version, and so does a write that comes
//     between;
//   - If-None-Match: * is fulfilled by an object that was deleted, and If-Match
//     is not;
//   - an older version keeps its time, and a delete marker has one;
//   - the last of a disk is for what is small, so that deletions are possible;
//   - no version is listed twice;
//   - a copy obeys If-None-Match.
type directory struct {
	backend.BackendUnsupported

	files    *posix.Posix
	bucket   string // absolute path, and its name to files
	incoming string // absolute path of where versions are before they are published
	versions string // absolute path

	writing [256]sync.Mutex // by object: held while a version replaces another
}

var seed = maphash.MakeSeed()

// own holds the writing of an object until the caller calls what it returns.
func (d *directory) own(key string) func() {
	mu := &d.writing[maphash.String(seed, key)%uint64(len(d.writing))]
	mu.Lock()
	return mu.Unlock
}

func (d *directory) enableVersioning() error {
	for _, bucket := range []string{d.bucket, d.incoming} {
		if err := d.files.PutBucketVersioning(context.Background(), bucket, types.BucketVersioningStatusEnabled); err != nil {
			return err
		}
	}
	return nil
}

// at returns how the bucket is called by files.
func (d *directory) at(bucket *string) *string {
	if aws.ToString(bucket) != bucketName {
		missing := d.bucket + "-unknown" // a path where nothing is
		return &missing
	}
	return &d.bucket
}

func (d *directory) String() string { return "kernelgw's embedded S3 server" }

// Shutdown ends the use of files.
func (d *directory) Shutdown() { d.files.Shutdown() }

func (d *directory) HeadBucket(ctx context.Context, in *s3.HeadBucketInput) (*s3.HeadBucketOutput, error) {
	if aws.ToString(in.Bucket) != bucketName {
		return nil, s3err.GetBucketErr(s3err.ErrNoSuchBucket, aws.ToString(in.Bucket))
	}
	return d.files.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &d.bucket})
}

func (d *directory) GetBucketAcl(_ context.Context, in *s3.GetBucketAclInput) ([]byte, error) {
	if aws.ToString(in.Bucket) != bucketName {
		return nil, s3err.GetBucketErr(s3err.ErrNoSuchBucket, aws.ToString(in.Bucket))
	}
	return nil, nil
}

func (d *directory) GetBucketVersioning(ctx context.Context, bucket string) (s3response.GetBucketVersioningOutput, error) {
	return d.files.GetBucketVersioning(ctx, *d.at(&bucket))
}

func (d *directory) GetBucketPolicy(context.Context, string) ([]byte, error) {
	return nil, s3err.GetAPIError(s3err.ErrNoSuchBucketPolicy)
}

func (d *directory) GetBucketCors(context.Context, string) ([]byte, error) {
	return nil, s3err.GetAPIError(s3err.ErrNoSuchCORSConfiguration)
}

func (d *directory) GetObjectLockConfiguration(context.Context, string) ([]byte, error) {
	return nil, s3err.GetAPIError(s3err.ErrObjectLockConfigurationNotFound)
}

func (d *directory) HeadObject(ctx context.Context, in *s3.HeadObjectInput) (*s3.HeadObjectOutput, error) {
	changed := *in
	changed.Bucket = d.at(in.Bucket)
	return d.files.HeadObject(ctx, &changed)
}

func (d *directory) GetObject(ctx context.Context, in *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	changed := *in
	changed.Bucket = d.at(in.Bucket)
	return d.files.GetObject(ctx, &changed)
}

func (d *directory) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input) (s3response.ListObjectsV2Result, error) {
	changed := *in
	changed.Bucket = d.at(in.Bucket)
	out, err := d.files.ListObjectsV2(ctx, &changed)
	out.Name = in.Bucket
	return out, err
}

// ListObjectVersions leaves out what the page before has shown, and what is there
// twice because a program was killed while a version took the place of another.
func (d *directory) ListObjectVersions(ctx context.Context, in *s3.ListObjectVersionsInput) (s3response.ListVersionsResult, error) {
	changed := *in
	changed.Bucket = d.at(in.Bucket)
	out, err := d.files.ListObjectVersions(ctx, &changed)
	out.Name = in.Bucket
	seen := map[string]bool{aws.ToString(in.KeyMarker) + "\x00" + aws.ToString(in.VersionIdMarker): true}
	first := func(key, version *string) bool {
		id := aws.ToString(key) + "\x00" + aws.ToString(version)
		if seen[id] {
			return false
		}
		seen[id] = true
		return true
	}
	markers := out.DeleteMarkers[:0]
	for _, m := range out.DeleteMarkers {
		if first(m.Key, m.VersionId) {
			markers = append(markers, m)
		}
	}
	versions := out.Versions[:0]
	for _, v := range out.Versions {
		if first(v.Key, v.VersionId) {
			versions = append(versions, v)
		}
	}
	out.DeleteMarkers, out.Versions = markers, versions
	return out, err
}

// PutObject writes a version. Conditions are looked at when the body has come.
func (d *directory) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	key := aws.ToString(in.Key)
	if strings.HasSuffix(key, "/") {
		return s3response.PutObjectOutput{}, s3err.GetNotImplementedErr("Key", "directories")
	}
	return d.write(ctx, in, func(*os.File) error { return nil })
}

// write writes a version, if the conditions hold while nobody else may write the
// object. prepare may add to the file that it is in.
func (d *directory) write(ctx context.Context, in s3response.PutObjectInput, prepare func(*os.File) error) (s3response.PutObjectOutput, error) {
	if aws.ToString(in.Bucket) != bucketName {
		return s3response.PutObjectOutput{}, s3err.GetBucketErr(s3err.ErrNoSuchBucket, aws.ToString(in.Bucket))
	}
	if err := d.hasRoom(in); err != nil {
		return s3response.PutObjectOutput{}, err
	}
	version, out, err := d.stage(ctx, in, prepare)
	if err != nil {
		return out, err
	}
	defer d.own(version.key)()
	err = d.check(ctx, version.key, in.IfMatch, in.IfNoneMatch)
	if err == nil {
		err = d.publish(version)
	}
	if err != nil {
		return out, errors.Join(err, removeStaged(version.path))
	}
	return out, nil
}

// removeStaged removes what was not published; it may have been in part.
func removeStaged(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// check evaluates the conditions of a write against what is there now.
func (d *directory) check(ctx context.Context, key string, ifMatch, ifNoneMatch *string) error {
	if ifMatch == nil && ifNoneMatch == nil {
		return nil
	}
	now, err := d.files.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &d.bucket, Key: &key})
	if err != nil && !absent(err) {
		return err
	}
	etag := ""
	if err == nil {
		etag = aws.ToString(now.ETag)
	}
	return backend.EvaluateObjectPutPreconditions(etag, ifMatch, ifNoneMatch, err == nil)
}

// absent reports whether an object is not there, or deleted.
func absent(err error) bool {
	for _, code := range []s3err.ErrorCode{s3err.ErrNoSuchKey, s3err.ErrMethodNotAllowed, s3err.ErrNoSuchVersion, s3err.ErrObjectParentIsFile} {
		if errors.Is(err, s3err.GetAPIError(code)) {
			return true
		}
	}
	var failed s3err.S3Error
	return errors.As(err, &failed) && failed.StatusCode() == 404
}

// DeleteObject removes a version, or, when none is named, puts a delete marker
// above the others.
func (d *directory) DeleteObject(ctx context.Context, in *s3.DeleteObjectInput) (*s3.DeleteObjectOutput, error) {
	if aws.ToString(in.VersionId) != "" {
		out, err := d.removeVersion(ctx, in)
		if err == nil {
			err = d.syncRemoved(aws.ToString(in.Key))
		}
		return out, err
	}
	return d.mark(ctx, in)
}

// removeVersion removes a version for good. The caller syncs.
func (d *directory) removeVersion(ctx context.Context, in *s3.DeleteObjectInput) (*s3.DeleteObjectOutput, error) {
	key := aws.ToString(in.Key)
	defer d.own(key)()
	if aws.ToString(in.Bucket) == bucketName {
		if done, err := d.removeNewest(key, aws.ToString(in.VersionId)); done || err != nil {
			return &s3.DeleteObjectOutput{VersionId: in.VersionId}, err
		}
	}
	changed := *in
	changed.Bucket = d.at(in.Bucket)
	return d.files.DeleteObject(ctx, &changed)
}

// mark puts a delete marker above the versions of an object.
func (d *directory) mark(ctx context.Context, in *s3.DeleteObjectInput) (*s3.DeleteObjectOutput, error) {
	if _, err := d.files.HeadObject(ctx, &s3.HeadObjectInput{Bucket: d.at(in.Bucket), Key: in.Key}); err != nil {
		if absent(err) {
			return &s3.DeleteObjectOutput{}, nil // as S3 answers
		}
		return nil, err
	}
	out, err := d.write(ctx, s3response.PutObjectInput{
		Bucket: in.Bucket, Key: in.Key, Body: bytes.NewReader(nil), ContentLength: aws.Int64(0), IfMatch: trimmed(in.IfMatch),
	}, func(f *os.File) error {
		return meta.XattrMeta{}.StoreAttribute(f, "", "", "delete-marker", []byte{})
	})
	if err != nil {
		return nil, err
	}
	return &s3.DeleteObjectOutput{DeleteMarker: aws.Bool(true), VersionId: &out.VersionID}, nil
}

func trimmed(etag *string) *string {
	if etag == nil {
		return nil
	}
	return aws.String(strings.Trim(*etag, `"`))
}

// deleteObjects deletes as DeleteObject does, several at a time. told is what is
// answered of an object that failed.
func (d *directory) deleteObjects(ctx context.Context, in *s3.DeleteObjectsInput, told func(err error, key *string) error) (s3response.DeleteResult, error) {
	deleted := make([]*types.DeletedObject, len(in.Delete.Objects))
	failed := make([]*types.Error, len(in.Delete.Objects))
	var group sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i, object := range in.Delete.Objects {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			one := &s3.DeleteObjectInput{Bucket: in.Bucket, Key: object.Key, VersionId: object.VersionId}
			var out *s3.DeleteObjectOutput
			var err error
			if aws.ToString(object.VersionId) != "" {
				out, err = d.removeVersion(ctx, one)
			} else {
				out, err = d.mark(ctx, one)
			}
			if err != nil {
				e := s3err.ObjectDeleteError(object.Key, object.VersionId, told(err, object.Key))
				failed[i] = &e
				return
			}
			deleted[i] = &types.DeletedObject{Key: object.Key, VersionId: object.VersionId, DeleteMarker: out.DeleteMarker}
			if aws.ToBool(out.DeleteMarker) {
				deleted[i].DeleteMarkerVersionId = out.VersionId
			}
		})
	}
	group.Wait()
	var removed []string
	for _, object := range in.Delete.Objects {
		if aws.ToString(object.VersionId) != "" {
			removed = append(removed, aws.ToString(object.Key))
		}
	}
	var result s3response.DeleteResult
	if err := d.syncRemoved(removed...); err != nil {
		return result, err
	}
	for i := range deleted {
		if deleted[i] != nil {
			result.Deleted = append(result.Deleted, *deleted[i])
		}
		if failed[i] != nil {
			result.Error = append(result.Error, *failed[i])
		}
	}
	return result, nil
}

// CopyObject reads one version and writes another.
func (d *directory) CopyObject(ctx context.Context, in s3response.CopyObjectInput) (s3response.CopyObjectOutput, error) {
	sourceBucket, sourceKey, version, err := backend.ParseCopySource(aws.ToString(in.CopySource))
	if err != nil {
		return s3response.CopyObjectOutput{}, err
	}
	get := &s3.GetObjectInput{
		Bucket: d.at(&sourceBucket), Key: &sourceKey,
		IfMatch: in.CopySourceIfMatch, IfNoneMatch: in.CopySourceIfNoneMatch,
		IfModifiedSince: in.CopySourceIfModifiedSince, IfUnmodifiedSince: in.CopySourceIfUnmodifiedSince,
	}
	if version != "" {
		get.VersionId = &version
	}
	source, err := d.files.GetObject(ctx, get)
	if err != nil {
		return s3response.CopyObjectOutput{}, err
	}
	body := source.Body
	if body == nil {
		body = io.NopCloser(bytes.NewReader(nil))
	}
	defer body.Close()
	put := s3response.PutObjectInput{
		Bucket: in.Bucket, Key: in.Key, Body: body, ContentLength: source.ContentLength,
		ContentType: source.ContentType, ContentEncoding: source.ContentEncoding, ContentDisposition: source.ContentDisposition,
		ContentLanguage: source.ContentLanguage, CacheControl: source.CacheControl, Metadata: source.Metadata,
	}
	if in.MetadataDirective == types.MetadataDirectiveReplace {
		put.ContentType, put.ContentEncoding, put.ContentDisposition = in.ContentType, in.ContentEncoding, in.ContentDisposition
		put.ContentLanguage, put.CacheControl, put.Metadata = in.ContentLanguage, in.CacheControl, in.Metadata
	}
	out, err := d.PutObject(ctx, put)
	if err != nil {
		return s3response.CopyObjectOutput{}, err
	}
	return s3response.CopyObjectOutput{
		CopyObjectResult:    &s3response.CopyObjectResult{ETag: &out.ETag, LastModified: aws.Time(time.Now().UTC())},
		VersionId:           &out.VersionID,
		CopySourceVersionId: source.VersionId,
	}, nil
}

var errNotSynced = errors.New("cannot write the object to the disk")

func notSynced(err error) error { return fmt.Errorf("%w: %w", errNotSynced, err) }
