package s3store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"iter"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// seenVersion is a version, or a delete marker, in a listing of versions.
type seenVersion struct {
	key     string // whole
	deleted bool
	latest  bool
	object
}

// versions yields the versions and delete markers of all objects whose keys begin
// with a prefix, by key, newest first: each once, though some servers repeat the
// last of a page.
func (s *Store) versions(ctx context.Context, prefix string) iter.Seq2[seenVersion, error] {
	return func(yield func(seenVersion, error) bool) {
		in := &s3.ListObjectVersionsInput{Bucket: &s.bucket, Prefix: &prefix}
		seen := map[string]bool{} // versions of the key at hand
		at := ""
		for {
			var order []identifier
			out, err := s.client.ListObjectVersions(ctx, in, inOrder(&order))
			if err != nil {
				yield(seenVersion{}, translate(err))
				return
			}
			for _, v := range s.merged(out, order) {
				if v.key != at {
					at = v.key
					clear(seen)
				}
				if seen[v.version] {
					continue
				}
				seen[v.version] = true
				if !yield(v, nil) {
					return
				}
			}
			if !aws.ToBool(out.IsTruncated) {
				return
			}
			in.KeyMarker, in.VersionIdMarker = out.NextKeyMarker, out.NextVersionIdMarker
		}
	}
}

// versionOrder is how the versions and delete markers of an object are brought
// into one order.
type versionOrder int

const (
	byDocument versionOrder = iota // as the answer has them, which is what S3 does
	byID                           // ids grow, as versity's do
	byTime                         // by whole seconds: within one, nobody knows
)

// merged puts the two lists of an answer into one, newest first.
func (s *Store) merged(out *s3.ListObjectVersionsOutput, order []identifier) []seenVersion {
	all := make([]seenVersion, 0, len(out.Versions)+len(out.DeleteMarkers))
	for _, v := range out.Versions {
		all = append(all, seenVersion{
			key: aws.ToString(v.Key), latest: aws.ToBool(v.IsLatest),
			object: object{etag: unquoted(v.ETag), version: aws.ToString(v.VersionId), size: aws.ToInt64(v.Size), modified: seconds(v.LastModified)},
		})
	}
	for _, m := range out.DeleteMarkers {
		all = append(all, seenVersion{
			key: aws.ToString(m.Key), latest: aws.ToBool(m.IsLatest), deleted: true,
			object: object{version: aws.ToString(m.VersionId), modified: seconds(m.LastModified)},
		})
	}
	rank := make(map[identifier]int, len(order))
	for i, id := range order {
		if _, ok := rank[id]; !ok {
			rank[id] = i
		}
	}
	slices.SortStableFunc(all, func(a, b seenVersion) int {
		switch {
		case s.quirks.order == byDocument:
			return cmp.Compare(rank[identifier{a.key, a.version}], rank[identifier{b.key, b.version}])
		case a.key != b.key:
			return cmp.Compare(a.key, b.key)
		case a.latest != b.latest:
			if a.latest {
				return -1
			}
			return 1
		case s.quirks.order == byID:
			return cmp.Compare(b.version, a.version)
		}
		return b.modified.Compare(a.modified)
	})
	return all
}

// inOrder gives the versions and delete markers of an answer as the server
// ordered them: newest first. The SDK sorts them into two lists, and the times
// are of whole seconds, so that nothing else tells whether a version was written
// before the file was deleted or after.
func inOrder(order *[]identifier) func(*s3.Options) {
	return func(o *s3.Options) {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("kernelgwVersionOrder",
				func(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
					out, metadata, err := next.HandleDeserialize(ctx, in)
					response, ok := out.RawResponse.(*smithyhttp.Response)
					if err != nil || !ok || response.StatusCode != 200 {
						return out, metadata, err
					}
					body, err := io.ReadAll(response.Body)
					response.Body.Close()
					if err != nil {
						return out, metadata, &smithyhttp.RequestSendError{Err: err} // cut off: try again
					}
					if *order, err = parseOrder(body); err != nil {
						return out, metadata, &smithyhttp.RequestSendError{Err: err}
					}
					response.Body = io.NopCloser(bytes.NewReader(body))
					return out, metadata, nil
				}), middleware.After)
		})
	}
}

// parseOrder reads the ids in an answer to ListObjectVersions.
func parseOrder(body []byte) ([]identifier, error) {
	var order []identifier
	d := xml.NewDecoder(bytes.NewReader(body))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return order, nil
		}
		if err != nil {
			return nil, err
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "Version" && start.Name.Local != "DeleteMarker" {
			continue
		}
		var one struct {
			Key       string
			VersionID string `xml:"VersionId"`
		}
		if err := d.DecodeElement(&one, &start); err != nil {
			return nil, err
		}
		order = append(order, identifier{one.Key, one.VersionID})
	}
}
