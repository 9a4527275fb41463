package s3store

import (
	"context"
	"errors"

	"kernelgw/contents"
)

var errLater = errors.New("not yet")

func (s *Store) resume(context.Context, *workspace) error { return nil }
func (s *Store) locate(_ context.Context, w *workspace, path, version string) (identifier, error) {
	return identifier{s.base(w.name) + filesPart + fileKey(path), version}, nil
}
func (s *Store) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (s *Store) Move(ctx context.Context, workspace, from, to, author string) (contents.Entry, error) {
	return contents.Entry{}, errLater
}
func (s *Store) Copy(ctx context.Context, workspace, from, to, author string) (contents.Entry, error) {
	return contents.Entry{}, errLater
}
func (s *Store) Versions(ctx context.Context, workspace, path string) ([]contents.Version, error) {
	return nil, errLater
}
func (s *Store) Restore(ctx context.Context, workspace, path, version, author string) (contents.Entry, error) {
	return contents.Entry{}, errLater
}
func (s *Store) DeleteVersion(ctx context.Context, workspace, path, version string) error {
	return errLater
}
func (s *Store) Checkpoints(ctx context.Context, workspace, path string) ([]contents.Checkpoint, error) {
	return nil, nil
}
func (s *Store) MakeCheckpoint(ctx context.Context, workspace, path, author, label string) (contents.Checkpoint, error) {
	return contents.Checkpoint{}, errLater
}
func (s *Store) RestoreCheckpoint(ctx context.Context, workspace, path, id, author string) error {
	return errLater
}
func (s *Store) DeleteCheckpoint(ctx context.Context, workspace, path, id string) error {
	return errLater
}
func (s *Store) Trash(ctx context.Context, workspace string) ([]contents.Trashed, error) {
	return nil, errLater
}
func (s *Store) Undelete(ctx context.Context, workspace, id string) (contents.Entry, error) {
	return contents.Entry{}, errLater
}
func (s *Store) Purge(ctx context.Context, workspace, id string) error { return errLater }
func (s *Store) Delete(ctx context.Context, workspace, path, author, ifMatch string) error {
	return errLater
}
