package frontend

import "net/http"

// Lab is in the table of Frontend.
func (f *Frontend) Lab(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Doc is in the table of Frontend.
func (f *Frontend) Doc(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Tree is in the table of Frontend.
func (f *Frontend) Tree(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Notebooks is in the table of Frontend.
func (f *Frontend) Notebooks(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Edit is in the table of Frontend.
func (f *Frontend) Edit(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Consoles is in the table of Frontend.
func (f *Frontend) Consoles(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Terminals is in the table of Frontend.
func (f *Frontend) Terminals(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Static is in the table of Frontend.
func (f *Frontend) Static(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// LabExtension is in the table of Frontend.
func (f *Frontend) LabExtension(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Theme is in the table of Frontend.
func (f *Frontend) Theme(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// CustomCSS is in the table of Frontend.
func (f *Frontend) CustomCSS(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// ListSettings is in the table of Frontend.
func (f *Frontend) ListSettings(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// GetSetting is in the table of Frontend.
func (f *Frontend) GetSetting(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// PutSetting is in the table of Frontend.
func (f *Frontend) PutSetting(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// ListWorkspaces is in the table of Frontend.
func (f *Frontend) ListWorkspaces(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// GetWorkspace is in the table of Frontend.
func (f *Frontend) GetWorkspace(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// PutWorkspace is in the table of Frontend.
func (f *Frontend) PutWorkspace(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// DeleteWorkspace is in the table of Frontend.
func (f *Frontend) DeleteWorkspace(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// ListTranslations is in the table of Frontend.
func (f *Frontend) ListTranslations(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// GetTranslation is in the table of Frontend.
func (f *Frontend) GetTranslation(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Licenses is in the table of Frontend.
func (f *Frontend) Licenses(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Build is in the table of Frontend.
func (f *Frontend) Build(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// News is in the table of Frontend.
func (f *Frontend) News(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Update is in the table of Frontend.
func (f *Frontend) Update(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Listings is in the table of Frontend.
func (f *Frontend) Listings(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// Extensions is in the table of Frontend.
func (f *Frontend) Extensions(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// ChangeExtensions is in the table of Frontend.
func (f *Frontend) ChangeExtensions(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// LSPStatus is in the table of Frontend.
func (f *Frontend) LSPStatus(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// GetConfig is in the table of Frontend.
func (f *Frontend) GetConfig(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// PutConfig is in the table of Frontend.
func (f *Frontend) PutConfig(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }

// PatchConfig is in the table of Frontend.
func (f *Frontend) PatchConfig(w http.ResponseWriter, r *http.Request, at At) error { return unmade() }
