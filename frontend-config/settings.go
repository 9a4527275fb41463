package frontend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strings"

	"golang.org/x/sync/errgroup"
)

// timestamp is how Jupyter writes times (contract section 1.2).
const timestamp = "2006-01-02T15:04:05.000000Z"

// settingDocument is the start of the names of documents with settings.
const settingDocument = "settings/"

// maxSetting bounds what a user writes as the settings of one plugin, in bytes,
// since those of all are answered at once.
const maxSetting = 128 << 10

// atOnce bounds the documents that one request reads at the same time.
const atOnce = 8

// changed is what a user made of a plugin's settings.
type changed struct {
	Raw      string          `json:"raw"`
	Settings json.RawMessage `json:"settings"`
	Modified *string         `json:"last_modified"`
	Created  *string         `json:"created"`
}

// ListSettings answers with all settings, or their ids: lab/api/settings.
func (f *Frontend) ListSettings(w http.ResponseWriter, r *http.Request, at At) error {
	if r.URL.Query().Get("ids_only") == "true" {
		list := make([]map[string]string, len(f.ids))
		for i, id := range f.ids {
			list[i] = map[string]string{"id": id}
		}
		return writeJSON(w, r, map[string]any{"settings": list})
	}
	body, err := f.allSettings(r.Context(), at.User)
	if err != nil {
		return err
	}
	return writeText(w, r, "application/json", body)
}

// allSettings returns all settings of a user, as Lab reads them.
func (f *Frontend) allSettings(ctx context.Context, user string) ([]byte, error) {
	if err := f.listing.Acquire(ctx, 1); err != nil {
		return nil, unavailable("settings", err)
	}
	defer f.listing.Release(1)
	users, err := f.changedSettings(ctx, user)
	if err != nil {
		return nil, err
	}
	var body bytes.Buffer
	body.WriteString(`{"settings":[`)
	for i, id := range f.ids {
		if i > 0 {
			body.WriteByte(',')
		}
		user, ok := users[id]
		if !ok {
			user = unchanged
		}
		f.settings[id].write(&body, user)
	}
	body.WriteString("]}")
	return body.Bytes(), nil
}

// changedSettings reads what a user changed, by id.
func (f *Frontend) changedSettings(ctx context.Context, user string) (map[string]changed, error) {
	names, err := f.o.Documents.ListDocuments(ctx, user, settingDocument)
	if err != nil {
		return nil, unavailable("settings", err)
	}
	found := make([]changed, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, name := range names {
		s := f.settings[strings.TrimPrefix(name, settingDocument)]
		if s == nil {
			continue // of an extension that is not there any more
		}
		group.Go(func() (err error) {
			found[i], err = f.changed(ctx, user, s)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	users := make(map[string]changed, len(names))
	for i, name := range names {
		if found[i].Raw != "" {
			users[strings.TrimPrefix(name, settingDocument)] = found[i]
		}
	}
	return users, nil
}

// unchanged are the settings of whoever has not changed any.
var unchanged = changed{Raw: "{}", Settings: json.RawMessage("{}")}

// changed reads what a user made of a plugin's settings. What is no longer
// valid, after an update, is answered as unchanged, and logged: Lab would not
// start with it. It stays stored until the user writes something else.
func (f *Frontend) changed(ctx context.Context, user string, s *setting) (changed, error) {
	raw, modified, err := f.o.Documents.GetDocument(ctx, user, settingDocument+s.id)
	if errors.Is(err, fs.ErrNotExist) {
		return unchanged, nil
	}
	if err != nil {
		return changed{}, unavailable("settings", err)
	}
	when := modified.UTC().Format(timestamp)
	c := unchanged
	c.Modified, c.Created = &when, &when
	settings, values, err := parseSettings(string(raw))
	if err == nil {
		err = f.validate(s, values)
	}
	if err != nil {
		f.o.Log.Warn("settings of a user are not valid any more", "settings", s.id, "error", err)
		return c, nil
	}
	c.Raw, c.Settings = string(raw), settings
	return c, nil
}

// write appends the setting as Lab reads it.
func (s *setting) write(to *bytes.Buffer, user changed) {
	tail, err := json.Marshal(user)
	if err != nil {
		panic("settings that were JSON are not: " + err.Error())
	}
	to.Write(s.head)
	to.WriteByte(',')
	to.Write(tail[1:])
}

// setting returns the settings that a path names.
func (f *Frontend) setting(at At) (*setting, error) {
	id := strings.TrimSuffix(at.Path, "/")
	if s := f.settings[id]; s != nil {
		return s, nil
	}
	return nil, errorf(http.StatusNotFound, "There are no settings of that name")
}

// GetSetting answers with a plugin's settings: lab/api/settings/*.
func (f *Frontend) GetSetting(w http.ResponseWriter, r *http.Request, at At) error {
	if strings.Trim(at.Path, "/") == "" {
		return f.ListSettings(w, r, at)
	}
	s, err := f.setting(at)
	if err != nil {
		return err
	}
	user, err := f.changed(r.Context(), at.User, s)
	if err != nil {
		return err
	}
	var body bytes.Buffer
	s.write(&body, user)
	return writeText(w, r, "application/json", body.Bytes())
}

// PutSetting keeps what a user wrote: lab/api/settings/*.
func (f *Frontend) PutSetting(w http.ResponseWriter, r *http.Request, at At) error {
	s, err := f.setting(at)
	if err != nil {
		return err
	}
	var body struct {
		Raw *string `json:"raw"`
	}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	if body.Raw == nil {
		return errorf(http.StatusBadRequest, `The body must be {"raw": "..."}`)
	}
	if len(*body.Raw) > maxSetting {
		return errorf(http.StatusRequestEntityTooLarge, "The settings are larger than %d bytes", maxSetting)
	}
	_, values, err := parseSettings(*body.Raw)
	if err != nil {
		return errorf(http.StatusBadRequest, "The settings cannot be read: %v (JSON with comments and trailing commas)", err)
	}
	if err := f.validate(s, values); err != nil {
		return errorf(http.StatusBadRequest, "The settings are not valid %v", err)
	}
	if err := f.o.Documents.PutDocument(r.Context(), at.User, settingDocument+s.id, []byte(*body.Raw)); err != nil {
		return unavailable("settings", err)
	}
	return noContent(w)
}
