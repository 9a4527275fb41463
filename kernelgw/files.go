package kernelgw

import (
	"net/http"

	"kernelgw/auth"
	"kernelgw/contents"
)

// fileRoutes are the files of a workspace: Jupyter's contents API, /files, and
// beyond Jupyter versions, trash and usage.
func fileRoutes() []Route {
	const get, head, put, post, patch, del = http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete
	const at = "v1/workspaces/:workspace/"
	api := func(method, path, doc string, handle fileHandler) Route {
		return row(method, path, auth.API, everywhere, doc, files(handle)).streaming()
	}
	native := func(method, path, doc string, handle fileHandler) Route {
		return row(method, at+path, auth.API, baseOnly, doc, files(handle)).streaming()
	}
	return []Route{
		api(get, "api/contents", "The root directory", (*contents.Handlers).Get),
		api(put, "api/contents", "As below", (*contents.Handlers).Put),
		api(post, "api/contents", "New file or directory, or a copy, in the root directory", (*contents.Handlers).Post),
		api(patch, "api/contents", "As below", (*contents.Handlers).Patch),
		api(del, "api/contents", "As below", (*contents.Handlers).Delete),
		api(get, "api/contents/*", "A file, notebook or directory", (*contents.Handlers).Get),
		api(put, "api/contents/*", "Save or upload a file, or make a directory", (*contents.Handlers).Put),
		api(post, "api/contents/*", "New file or directory, or a copy, in a directory", (*contents.Handlers).Post),
		api(patch, "api/contents/*", "Rename or move", (*contents.Handlers).Patch),
		api(del, "api/contents/*", "Delete into the trash", (*contents.Handlers).Delete),
		api(get, "api/contents/*/checkpoints", "Checkpoints of a file, oldest first", (*contents.Handlers).Checkpoints),
		api(post, "api/contents/*/checkpoints", "Make a checkpoint: the current version is kept", (*contents.Handlers).MakeCheckpoint),
		api(post, "api/contents/*/checkpoints/:id", "Restore a checkpoint, as a new version", (*contents.Handlers).RestoreCheckpoint),
		api(del, "api/contents/*/checkpoints/:id", "Forget a checkpoint", (*contents.Handlers).DeleteCheckpoint),
		api(post, "api/contents/*/trust", "Trust a notebook", (*contents.Handlers).Trust),
		row(get, "files/*", auth.Page, everywhere, "A file's bytes; no page of another site may read them", rawFile).streaming().sameSite(),
		row(head, "files/*", auth.Page, everywhere, "As GET, headers only", rawFile).streaming().sameSite(),

		native(get, "files/*/versions", "Versions of a file, latest first, across renames", (*contents.Handlers).Versions),
		native(get, "files/*/versions/:id", "The bytes of a version", (*contents.Handlers).VersionContent),
		native(del, "files/*/versions/:id", "Remove an old version for good", (*contents.Handlers).DeleteVersion),
		native(post, "files/*/versions/:id/restore", "Make an old version the latest, as a new version", (*contents.Handlers).RestoreVersion),
		native(get, "files/*/diff", "What changed between two versions: ?from=ID&to=ID", (*contents.Handlers).Diff),
		native(get, "trash", "What was deleted and can be brought back", (*contents.Handlers).Trash),
		native(del, "trash", "Empty the trash for good: ?all=1", (*contents.Handlers).Purge),
		native(del, "trash/:id", "Remove one deleted file for good", (*contents.Handlers).Purge),
		native(post, "trash/:id/restore", "Bring a deleted file back", (*contents.Handlers).Undelete),
		native(get, "usage", "Bytes in use, old versions included, and the limit", (*contents.Handlers).Usage),
	}
}

type fileHandler = func(*contents.Handlers, http.ResponseWriter, *http.Request, contents.At) error

// files returns the route handler for one of package contents.
func files(handle fileHandler) func(*Server, *call) error {
	return func(s *Server, c *call) error {
		if s.o.Files == nil {
			return notFound("This server keeps no files")
		}
		// What a browser shows of a file runs as nobody: not with our cookies,
		// and not with our pages as its neighbours.
		c.Response().Header().Set("Content-Security-Policy", s.csp+"; default-src 'none'; sandbox")
		return handle(s.o.Files, c.Response(), c.Request(), contents.At{
			Workspace: c.workspace, Path: c.pathParam("*"), ID: c.pathParam("id"),
			User: c.who.DisplayName, Owner: c.reader(), Base: c.base,
		})
	}
}

// rawFile serves a file to be looked at: HTML with scripts, too, but sandboxed
// (CVE-2018-21030, CVE-2026-44727).
func rawFile(s *Server, c *call) error {
	if s.o.Files == nil {
		return notFound("This server keeps no files")
	}
	sandbox := "; sandbox allow-scripts"
	if c.who.Method == auth.MethodCapability {
		sandbox = "; sandbox" // a script would read the secret in the page's own address
	}
	c.Response().Header().Set("Content-Security-Policy", s.csp+sandbox)
	return s.o.Files.File(c.Response(), c.Request(), contents.At{
		Workspace: c.workspace, Path: c.pathParam("*"), User: c.who.DisplayName, Owner: c.reader(), Base: c.base,
	})
}

// reader is who trusts a notebook. Whoever has a capability is not its maker:
// what it says is trusted must not run in the maker's browser, which may do more.
func (c *call) reader() string {
	if c.who.Method == auth.MethodCapability {
		return c.owner() + "/" + c.workspace
	}
	return c.owner()
}
