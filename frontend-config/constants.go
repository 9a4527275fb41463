package frontend

import (
	"net/http"
	"strings"
)

// What follows has the same answer for everyone: no language packs, no builds,
// no news, no installation of extensions, no language servers.

// ListTranslations answers with the languages: lab/api/translations.
func (f *Frontend) ListTranslations(w http.ResponseWriter, r *http.Request, _ At) error {
	return writeJSON(w, r, map[string]any{
		"data":    map[string]any{"en": map[string]string{"displayName": "English", "nativeName": "English"}},
		"message": "",
	})
}

// GetTranslation answers with a language's texts, none: lab/api/translations/*.
// Lab does not start without the answer.
func (f *Frontend) GetTranslation(w http.ResponseWriter, r *http.Request, at At) error {
	var missing string
	switch locale := strings.Trim(at.Path, "/"); locale {
	case "":
		return f.ListTranslations(w, r, at)
	case "default", "en", "en_US", "en-US":
	default:
		missing = "There is no language pack for " + locale
	}
	return writeJSON(w, r, map[string]any{"data": struct{}{}, "message": missing})
}

// Build answers that nothing needs building: lab/api/build.
func (f *Frontend) Build(w http.ResponseWriter, r *http.Request, _ At) error {
	return writeJSON(w, r, map[string]string{"status": "stable", "message": ""})
}

// News answers with no news: lab/api/news.
func (f *Frontend) News(w http.ResponseWriter, r *http.Request, _ At) error {
	return writeJSON(w, r, map[string]any{"news": []string{}})
}

// Update answers that there is no update: lab/api/update.
func (f *Frontend) Update(w http.ResponseWriter, r *http.Request, _ At) error {
	return writeJSON(w, r, map[string]any{"notification": nil})
}

// Listings answers with the extensions that may be installed, and may not:
// lab/api/listings/*.
func (f *Frontend) Listings(w http.ResponseWriter, r *http.Request, at At) error {
	if at.Path != "@jupyterlab/extensionmanager-extension/listings.json" {
		return errorf(http.StatusNotFound, "There is no such listing")
	}
	none := []string{}
	return writeJSON(w, r, map[string]any{
		"blocked_extensions_uris": none, "allowed_extensions_uris": none,
		"blocked_extensions": none, "allowed_extensions": none,
	})
}

// Extensions answers with what can be installed, nothing: lab/api/extensions and
// lab/api/plugins.
func (f *Frontend) Extensions(w http.ResponseWriter, r *http.Request, _ At) error {
	return writeJSON(w, r, []string{})
}

// ChangeExtensions refuses to install: lab/api/extensions and lab/api/plugins.
// That the browser does not offer it is no protection.
func (f *Frontend) ChangeExtensions(http.ResponseWriter, *http.Request, At) error {
	return errorf(http.StatusForbidden, "Extensions are installed by the operator of this server")
}

// LSPStatus answers that there are no language servers: lsp/status.
func (f *Frontend) LSPStatus(w http.ResponseWriter, r *http.Request, _ At) error {
	return writeJSON(w, r, map[string]any{"version": 2, "sessions": struct{}{}, "specs": struct{}{}})
}
