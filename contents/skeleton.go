package contents

import "net/http"

type (
	uploadKey struct{}
	upload    struct{}
)

var notYet = fail(http.StatusNotImplemented, "Not yet")

// Close gives up the chunked uploads under way. It may be called twice.
func (h *Handlers) Close() error { return nil }

// Get answers GET api/contents/PATH.
func (h *Handlers) Get(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// Put answers PUT api/contents/PATH.
func (h *Handlers) Put(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// Post answers POST api/contents/PATH.
func (h *Handlers) Post(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// Patch answers PATCH api/contents/PATH.
func (h *Handlers) Patch(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// Delete answers DELETE api/contents/PATH.
func (h *Handlers) Delete(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// Checkpoints answers GET api/contents/PATH/checkpoints.
func (h *Handlers) Checkpoints(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// MakeCheckpoint answers POST api/contents/PATH/checkpoints.
func (h *Handlers) MakeCheckpoint(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// RestoreCheckpoint answers POST api/contents/PATH/checkpoints/ID.
func (h *Handlers) RestoreCheckpoint(w http.ResponseWriter, r *http.Request, at At) error {
	return notYet
}

// DeleteCheckpoint answers DELETE api/contents/PATH/checkpoints/ID.
func (h *Handlers) DeleteCheckpoint(w http.ResponseWriter, r *http.Request, at At) error {
	return notYet
}

// Trust answers POST api/contents/PATH/trust.
func (h *Handlers) Trust(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// File answers GET and HEAD files/PATH.
func (h *Handlers) File(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// Versions answers GET v1/workspaces/NAME/files/PATH/versions.
func (h *Handlers) Versions(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// VersionContent answers GET v1/workspaces/NAME/files/PATH/versions/ID: its bytes.
func (h *Handlers) VersionContent(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// Diff answers GET v1/workspaces/NAME/files/PATH/diff?from=ID&to=ID.
func (h *Handlers) Diff(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// RestoreVersion answers POST v1/workspaces/NAME/files/PATH/versions/ID/restore.
func (h *Handlers) RestoreVersion(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// DeleteVersion answers DELETE v1/workspaces/NAME/files/PATH/versions/ID.
func (h *Handlers) DeleteVersion(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// Trash answers GET v1/workspaces/NAME/trash.
func (h *Handlers) Trash(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// Undelete answers POST v1/workspaces/NAME/trash/ID/restore.
func (h *Handlers) Undelete(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// Purge answers DELETE v1/workspaces/NAME/trash/ID and, without ID, of all trash.
func (h *Handlers) Purge(w http.ResponseWriter, r *http.Request, at At) error { return notYet }

// Usage answers GET v1/workspaces/NAME/usage.
func (h *Handlers) Usage(w http.ResponseWriter, r *http.Request, at At) error { return notYet }
