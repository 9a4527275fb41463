package s3store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"kernelgw/contents"
)

// Asides are objects of a workspace that are not its files: nobody sees them among
// those, they are written once, have no versions, and count against no quota. Who
// keeps them bounds them.

// asidesPart is where they are in a workspace.
const asidesPart = "m/aside/"

// asideName is how an aside may be called; what its name begins with may be, too.
var asideName = regexp.MustCompile(`^([a-z0-9-]{1,200}/)*[a-z0-9-]{0,200}$`)

func (s *Store) aside(workspace, name string) (key string, err error) {
	key = s.base(workspace) + asidesPart + name
	if workspace == "" || !asideName.MatchString(name) || len(key) > maxKeyBytes {
		return "", fmt.Errorf("%w: %.64q cannot be kept beside files", contents.ErrInvalid, name)
	}
	return key, nil
}

// Workspaces returns the names of the workspaces of which there is anything.
func (s *Store) Workspaces(ctx context.Context) ([]string, error) {
	names, err := s.names(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list workspaces: %w", err)
	}
	return names, nil
}

// CreateAside writes an object beside the files of a workspace, unless there is one
// of that name: then created is false, and it stays as it is.
func (s *Store) CreateAside(ctx context.Context, workspace, name string, content []byte) (created bool, err error) {
	key, err := s.aside(workspace, name)
	if err != nil {
		return false, err
	}
	if !s.quirks.createsOverDeleted { // the server takes no condition
		_, err := s.head(ctx, key, "")
		if err == nil {
			return false, nil
		}
		if !errors.Is(err, contents.ErrNotFound) {
			return false, fmt.Errorf("cannot write %s: %w", name, err)
		}
	}
	u := upload{body: bytes.NewReader(content), size: int64(len(content)), sha256: sha256.Sum256(content)}
	_, _, err = s.put(ctx, key, u, nil, condition{none: true})
	if errors.Is(err, errPrecondition) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot write %s: %w", name, err)
	}
	return true, nil
}

// OpenAside returns the content of an object beside files. One that is not there is
// fs.ErrNotExist.
func (s *Store) OpenAside(ctx context.Context, workspace, name string) (io.ReadCloser, error) {
	key, err := s.aside(workspace, name)
	if err != nil {
		return nil, err
	}
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: aws.String(key)})
	if err = translate(err); errors.Is(err, contents.ErrNotFound) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return out.Body, nil
}

// EachAside calls each for the objects beside files whose names begin with a prefix,
// in order of their names. An error of each ends the walk.
func (s *Store) EachAside(ctx context.Context, workspace, prefix string, each func(name string, size int64, written time.Time) error) error {
	key, err := s.aside(workspace, prefix)
	if err != nil {
		return err
	}
	for o, err := range s.list(ctx, key, false) {
		if err != nil {
			return fmt.Errorf("cannot list what is beside the files of workspace %s: %w", workspace, err)
		}
		if err := each(prefix+o.key, o.size, o.modified); err != nil {
			return err
		}
	}
	return nil
}

// PruneAsides removes for good the objects beside files whose names begin with a
// prefix, and for which drop is true.
func (s *Store) PruneAsides(ctx context.Context, workspace, prefix string, drop func(name string, size int64, written time.Time) bool) error {
	key, err := s.aside(workspace, prefix)
	if err != nil {
		return err
	}
	base := strings.TrimSuffix(key, prefix)
	var versions, markers []identifier
	for v, err := range s.versions(ctx, key) {
		if err != nil {
			return fmt.Errorf("cannot list what is beside the files of workspace %s: %w", workspace, err)
		}
		switch {
		case v.deleted:
			markers = append(markers, identifier{v.key, v.version})
		case !v.latest || drop(strings.TrimPrefix(v.key, base), v.size, v.modified):
			versions = append(versions, identifier{v.key, v.version})
		}
	}
	// In this order: a deletion must not go before what it hides.
	err = s.removeAll(ctx, versions)
	if err == nil {
		err = s.removeAll(ctx, markers)
	}
	if err != nil {
		return fmt.Errorf("cannot remove what is beside the files of workspace %s: %w", workspace, err)
	}
	return nil
}
