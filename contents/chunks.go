package contents

import (
	"net/http"
	"sync"
	"time"
)

const (
	// uploadsPerOwner bounds the chunked uploads of a person that are under way at
	// once: each holds a file open.
	uploadsPerOwner = 32
	// quotaEvery is how often in an upload it is seen whether there is still room.
	quotaEvery = 64 << 20
)

// uploadKey is whose upload to where. Jupyter clients give uploads no name of their
// own.
type uploadKey struct{ owner, workspace, path string }

// upload is a chunked upload under way. It is in memory or in a file without a
// name, so that a killed gateway leaves nothing behind.
type upload struct {
	expiry *time.Timer

	mu      sync.Mutex
	content *spool
	next    int // number of the chunk to come
	asked   int64
}

// chunk takes a chunk of an upload, and commits it with the last one.
func (p *putting) chunk(w http.ResponseWriter, r *http.Request) error {
	key := uploadKey{p.at.Owner, p.at.Workspace, p.path}
	number := *p.Chunk
	if number == 1 {
		if err := p.begin(r, key); err != nil {
			return err
		}
	}
	u := p.h.uploadAt(key)
	if u == nil {
		return fail(http.StatusBadRequest, "There is no upload of %s under way: it took too long, or the server was restarted. Upload the file again", p.path)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	size, err := p.add(r, u, number)
	if err != nil {
		p.h.giveUp(key, u)
		u.end()
		return err
	}
	if number == -1 {
		return p.commit(w, r, key, u)
	}
	e := p.partial(size)
	m := modelOf(e, "", false)
	status := http.StatusOK
	if number == 1 && !p.exists() {
		status = http.StatusCreated
	}
	located(w, p.at, p.path)
	return m.write(w, status, e)
}

// begin makes an upload in the place of what was under way to the same path.
func (p *putting) begin(r *http.Request, key uploadKey) error {
	parent, err := p.h.o.Store.Stat(r.Context(), p.at.Workspace, Parent(p.path))
	if err == nil && !parent.Directory {
		err = ErrNotDirectory
	}
	if err != nil {
		return failed(err, Parent(p.path))
	}
	u := &upload{content: p.h.spool(p.at.Owner, p.h.o.MaxFileBytes), next: 1, asked: -quotaEvery}
	before, err := p.h.addUpload(key, u)
	if before != nil {
		before.drop()
	}
	return err
}

// addUpload returns the upload whose place the new one took, if any.
func (h *Handlers) addUpload(key uploadKey, u *upload) (before *upload, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, &Error{Status: http.StatusServiceUnavailable, Message: "The server is about to stop; upload again in a moment", RetryAfter: 5}
	}
	count := 0
	for other := range h.uploads {
		if other.owner == key.owner && other != key {
			count++
		}
	}
	if count >= uploadsPerOwner {
		return nil, fail(http.StatusTooManyRequests, "%d uploads are under way; wait until one is done", count)
	}
	before = h.uploads[key]
	h.uploads[key] = u
	u.expiry = time.AfterFunc(h.o.ChunkExpiry, func() { h.giveUp(key, u); u.drop() })
	if before != nil {
		before.expiry.Stop()
	}
	return before, nil
}

func (h *Handlers) uploadAt(key uploadKey) *upload {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.uploads[key]
}

// giveUp forgets an upload, unless another one took its place.
func (h *Handlers) giveUp(key uploadKey, u *upload) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.uploads[key] == u {
		delete(h.uploads, key)
	}
	u.expiry.Stop()
}

// drop ends an upload when nobody adds to it any more.
func (u *upload) drop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.end()
}

// end lets the content go; mu is held.
func (u *upload) end() {
	u.content.Close()
	u.next = -1
}

// add appends a chunk; u.mu is held.
func (p *putting) add(r *http.Request, u *upload, number int) (size int64, err error) {
	if u.next < 1 || number != u.next && number != -1 || number == -1 && u.next == 1 {
		return 0, fail(http.StatusBadRequest, "Chunk %d of %s was sent when chunk %d was due. Upload the file again", number, p.path, max(u.next, 1))
	}
	content, err := p.h.decoded(p.at.Owner, p.envelope)
	if err != nil {
		return 0, err
	}
	defer content.Close()
	if u.content.size-u.asked >= quotaEvery {
		u.asked = u.content.size
		used, limit, err := p.h.o.Store.Usage(r.Context(), p.at.Workspace)
		if err != nil {
			return 0, failed(err, p.path)
		}
		if wanted := Charge(u.content.size + content.size); limit > 0 && used+wanted > limit {
			return 0, failed(&QuotaError{Used: used, Limit: limit, Wanted: wanted}, p.path)
		}
	}
	if err := u.content.appendAll(content); err != nil {
		return 0, spoolFailed(err)
	}
	u.next++
	u.expiry.Reset(p.h.o.ChunkExpiry)
	return u.content.size, nil
}

// commit stores an upload; u.mu is held. It is over even when that fails.
func (p *putting) commit(w http.ResponseWriter, r *http.Request, key uploadKey, u *upload) error {
	p.h.giveUp(key, u)
	defer u.end()
	e, err := p.store(r.Context(), u.content.reader())
	if err != nil {
		return err
	}
	p.h.o.Observe("upload", p.at.Workspace, p.path, "")
	m := modelOf(e, "", true)
	located(w, p.at, p.path)
	return m.write(w, http.StatusOK, e)
}

// Close gives up the chunked uploads under way. It may be called twice.
func (h *Handlers) Close() error {
	h.mu.Lock()
	uploads := h.uploads
	h.uploads, h.closed = map[uploadKey]*upload{}, true
	h.mu.Unlock()
	for _, u := range uploads {
		u.expiry.Stop()
		u.drop()
	}
	return nil
}
