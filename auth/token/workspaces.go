package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"kernelgw/auth"
	"kernelgw/kernelgw/registry"
)

// maxWorkspaces is how many workspaces a user makes.
const maxWorkspaces = 100

// madeWorkspace is the stored document of a workspace that a user made. Its id
// is the workspace's full name.
type madeWorkspace struct {
	User    string    `json:"user"`
	Created time.Time `json:"created"`
}

var validOwnName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$`)

// fullName is the name of a user's own workspace among those of all. No name of
// the configuration has a "~", and none of a user: "a" and "b-c" do not become
// what "a-b" and "c" become.
func fullName(user string, owner bool, name string) string {
	if owner {
		return name // there is nobody else
	}
	return user + "~" + name
}

// MakeWorkspace implements auth.Workspaces.
func (a *Authenticator) MakeWorkspace(ctx context.Context, p auth.Principal, name string) (string, error) {
	if !validOwnName.MatchString(name) {
		return "", fmt.Errorf("%w: write 1 to 40 letters, digits, _ or -, the first a letter or digit", auth.ErrName)
	}
	if p.Method == auth.MethodCapability {
		return "", fmt.Errorf("a capability is for one workspace: %w", auth.ErrDenied)
	}
	value, err := json.Marshal(madeWorkspace{User: p.Subject, Created: time.Now().UTC()})
	if err != nil {
		return "", err
	}
	full := fullName(p.Subject, p.Owner, name)
	a.mu.Lock()
	defer a.mu.Unlock()
	u, ok := a.user(p.Subject, p.Credential)
	switch {
	case !ok:
		return "", fmt.Errorf("the user or token is gone: %w", auth.ErrDenied)
	case slices.Contains(u.Workspaces, full):
		return "", fmt.Errorf("%w: %s", auth.ErrTaken, name)
	case len(a.made[p.Subject]) >= maxWorkspaces:
		return "", fmt.Errorf("%w workspaces: at most %d", auth.ErrTooMany, maxWorkspaces)
	}
	_, err = a.store.Put(ctx, registry.Record{Kind: registry.Workspaces, ID: full, Value: value})
	if errors.Is(err, registry.ErrConflict) {
		return "", fmt.Errorf("%w: %s", auth.ErrTaken, name)
	}
	if err != nil {
		return "", fmt.Errorf("cannot make a workspace: %w", err)
	}
	a.made[p.Subject] = append(a.made[p.Subject], full)
	return full, nil
}

// madeWorkspaces reads what users made, by user, in order of their making.
func madeWorkspaces(ctx context.Context, store registry.Store) (map[string][]string, error) {
	records, err := store.List(ctx, registry.Workspaces)
	if err != nil {
		return nil, fmt.Errorf("cannot list workspaces: %w", err)
	}
	docs := make(map[string]madeWorkspace, len(records))
	made := map[string][]string{}
	for _, r := range records {
		var w madeWorkspace
		if err := json.Unmarshal(r.Value, &w); err != nil {
			return nil, fmt.Errorf("workspace record %s in the registry is damaged: %w", r.ID, err)
		}
		docs[r.ID] = w
		made[w.User] = append(made[w.User], r.ID)
	}
	for _, names := range made {
		slices.SortStableFunc(names, func(x, y string) int { return docs[x].Created.Compare(docs[y].Created) })
	}
	return made, nil
}

// withMade returns a user with the workspaces that it made, too. a.mu is held.
func (a *Authenticator) withMade(u User) User {
	u.Workspaces = slices.Clone(u.Workspaces)
	for _, w := range a.made[u.Name] {
		// What the single user of this server made, before it had a list of users,
		// has a name like one of the configuration: it may be somebody else's now.
		mine := u.owner || strings.HasPrefix(w, fullName(u.Name, false, ""))
		if mine && !slices.Contains(u.Workspaces, w) {
			u.Workspaces = append(u.Workspaces, w)
		}
	}
	return u
}
