package auth

import (
	"context"
	"errors"
)

// Errors of Workspaces.
var (
	// ErrName: what a user calls a workspace cannot be its name; the text says why.
	ErrName = errors.New("that cannot name a workspace")
	// ErrTaken: the user has a workspace of that name.
	ErrTaken = errors.New("there is a workspace of that name")
)

// Workspaces makes workspaces for users. Safe for concurrent use.
type Workspaces interface {
	// MakeWorkspace makes a workspace that only p may use, and returns its full
	// name: users' names for theirs do not collide. From now on it is among the
	// Workspaces of p's principals, behind those of the configuration. ErrName,
	// ErrTaken, ErrTooMany.
	MakeWorkspace(ctx context.Context, p Principal, name string) (workspace string, err error)
}
