package s3store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"

	"kernelgw/contents"
)

// object is a version of an object, as a HEAD shows it.
type object struct {
	etag     string
	version  string
	size     int64
	modified time.Time // whole seconds
	metadata
}

func (s *Store) head(ctx context.Context, key, version string) (object, error) {
	in := &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key}
	if version != "" {
		in.VersionId = &version
	}
	out, err := s.client.HeadObject(ctx, in)
	if err != nil {
		if version != "" && statusOf(err) == http.StatusBadRequest {
			return object{}, contents.ErrNotFound // it does not look like a version
		}
		return object{}, translate(err)
	}
	return object{
		etag: unquoted(out.ETag), version: aws.ToString(out.VersionId), size: aws.ToInt64(out.ContentLength),
		modified: seconds(out.LastModified), metadata: decodeMetadata(out.Metadata),
	}, nil
}

func unquoted(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }

func seconds(t *time.Time) time.Time { return aws.ToTime(t).UTC().Truncate(time.Second) }

// condition is of a write: at most one of its fields is set.
type condition struct {
	etag string // the object has it
	none bool   // there is no object
}

// upload is content, with what has to be known of it to send it.
type upload struct {
	body   io.ReadSeeker
	size   int64
	sha256 [sha256.Size]byte
}

// measure reads a body once, from its start.
func measure(body io.ReadSeeker) (upload, error) {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return upload{}, err
	}
	hash := sha256.New()
	size, err := io.Copy(hash, body)
	if err != nil {
		return upload{}, err
	}
	u := upload{body: body, size: size}
	hash.Sum(u.sha256[:0])
	return u, nil
}

func (u upload) hex() string { return hex.EncodeToString(u.sha256[:]) }

// put writes an object. The version is "" where the server keeps none.
func (s *Store) put(ctx context.Context, key string, u upload, meta map[string]string, c condition) (etag, version string, err error) {
	if _, err := u.body.Seek(0, io.SeekStart); err != nil {
		return "", "", err
	}
	in := &s3.PutObjectInput{
		Bucket: &s.bucket, Key: &key, Body: u.body, ContentLength: &u.size, Metadata: meta,
		// The server refuses what was changed on the way.
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(u.sha256[:])),
	}
	switch {
	case c.none && s.quirks.createsOverDeleted:
		in.IfNoneMatch = aws.String("*")
	case c.etag != "":
		in.IfMatch = aws.String(`"` + c.etag + `"`)
	}
	payload := u.hex()
	if s.ownServer {
		payload = unsignedPayload
	}
	out, err := s.client.PutObject(ctx, in, signedAs(payload))
	if err != nil {
		return "", "", translate(err)
	}
	return unquoted(out.ETag), aws.ToString(out.VersionId), nil
}

// unsignedPayload says that the signature is not over the body. It is over the
// checksum still, which the server compares the body with.
const unsignedPayload = "UNSIGNED-PAYLOAD"

// signedAs spares the SDK to hash a body that is hashed already.
func signedAs(payload string) func(*s3.Options) {
	return func(o *s3.Options) {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("kernelgwPayloadHash",
				func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
					return next.HandleInitialize(v4.SetPayloadHash(ctx, payload), in)
				}), middleware.Before)
		})
	}
}

// putBytes writes a small object of the store's own.
func (s *Store) putBytes(ctx context.Context, key string, body []byte, c condition) (etag string, err error) {
	u := upload{body: bytes.NewReader(body), size: int64(len(body)), sha256: sha256.Sum256(body)}
	etag, _, err = s.put(ctx, key, u, nil, c)
	return etag, err
}

// maxBytes bounds the store's own objects.
const maxBytes = 64 << 20

func (s *Store) getBytes(ctx context.Context, key string) (body []byte, o object, err error) {
	for range attempts {
		out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: &key})
		if err != nil {
			return nil, object{}, translate(err)
		}
		body, err = io.ReadAll(io.LimitReader(out.Body, maxBytes))
		out.Body.Close()
		if err == nil {
			return body, object{etag: unquoted(out.ETag), version: aws.ToString(out.VersionId), modified: seconds(out.LastModified)}, nil
		}
		if ctx.Err() != nil {
			return nil, object{}, ctx.Err()
		}
	}
	return nil, object{}, unavailable("the content of %s breaks off", key)
}

// copyObject makes a version of one object the newest of another, and returns it.
func (s *Store) copyObject(ctx context.Context, from, version, to string, meta metadata) (etag, newVersion string, err error) {
	source := s.bucket + "/" + (&url.URL{Path: from}).EscapedPath()
	source = encodePlus(source)
	if version != "" {
		source += "?versionId=" + url.QueryEscape(version)
	}
	out, err := s.client.CopyObject(ctx, &s3.CopyObjectInput{
		Bucket: &s.bucket, Key: &to, CopySource: &source,
		MetadataDirective: types.MetadataDirectiveReplace, Metadata: meta.encode(),
	})
	if err != nil {
		return "", "", translate(err)
	}
	if out.CopyObjectResult != nil {
		etag = unquoted(out.CopyObjectResult.ETag)
	}
	return etag, aws.ToString(out.VersionId), nil
}

// encodePlus encodes "+" too: servers take it for a space.
func encodePlus(s string) string {
	var out []byte
	for i := range len(s) {
		if s[i] == '+' {
			out = append(out, "%2B"...)
		} else {
			out = append(out, s[i])
		}
	}
	return string(out)
}

// remove puts a delete marker above an object's versions. It is no error when
// there is no object.
func (s *Store) remove(ctx context.Context, key string) error {
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &key})
	return translate(err)
}

// identifier names an object, or a version of it.
type identifier struct{ key, version string }

// removeAll removes many objects, by a thousand at a time.
func (s *Store) removeAll(ctx context.Context, ids []identifier) error {
	for len(ids) > 0 {
		batch := ids[:min(len(ids), 1000)]
		ids = ids[len(batch):]
		objects := make([]types.ObjectIdentifier, len(batch))
		for i, id := range batch {
			objects[i].Key = aws.String(id.key)
			if id.version != "" {
				objects[i].VersionId = aws.String(id.version)
			}
		}
		out, err := s.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{
			Bucket: &s.bucket, Delete: &types.Delete{Objects: objects, Quiet: aws.Bool(true)},
		})
		if err != nil {
			return translate(err)
		}
		for _, failed := range out.Errors {
			switch aws.ToString(failed.Code) {
			case "NoSuchKey", "NoSuchVersion", "InvalidArgument":
				continue // gone already; versity calls a version that is gone invalid
			case codeFull, codeQuota:
				return fmt.Errorf("%w: %s", contents.ErrFull, aws.ToString(failed.Message))
			}
			return unavailable("the server deletes %s not: %s: %s", aws.ToString(failed.Key), aws.ToString(failed.Code), aws.ToString(failed.Message))
		}
	}
	return nil
}

// listed is an object in a listing.
type listed struct {
	key      string // without the prefix of the listing
	etag     string
	size     int64
	modified time.Time
}

// list yields the objects whose keys begin with a prefix; with flat, only those
// of one directory.
func (s *Store) list(ctx context.Context, prefix string, flat bool) iter.Seq2[listed, error] {
	return func(yield func(listed, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix}
		if flat {
			in.Delimiter = aws.String("/")
		}
		var continued []string // prefixes of names that are longer than a part of a key
		for {
			out, err := s.client.ListObjectsV2(ctx, in)
			if err != nil {
				yield(listed{}, translate(err))
				return
			}
			for _, o := range out.Contents {
				key, ok := strings.CutPrefix(aws.ToString(o.Key), prefix)
				if ok && !yield(listed{key: key, etag: unquoted(o.ETag), size: aws.ToInt64(o.Size), modified: seconds(o.LastModified)}, nil) {
					return
				}
			}
			for _, p := range out.CommonPrefixes {
				if strings.HasSuffix(aws.ToString(p.Prefix), continuedEnd) {
					continued = append(continued, aws.ToString(p.Prefix))
				}
			}
			if !aws.ToBool(out.IsTruncated) {
				break
			}
			in.ContinuationToken = out.NextContinuationToken
		}
		for _, longer := range continued {
			for o, err := range s.list(ctx, longer, true) {
				o.key = longer[len(prefix):] + o.key
				if !yield(o, err) || err != nil {
					return
				}
			}
		}
	}
}
