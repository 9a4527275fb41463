package image

import (
	"io/fs"
	"path"
	"slices"
	"strings"

	"kernelgw/jupyter/kernelspec"
	"kernelgw/sandboxes"
)

// findKernelspecs looks through an unpacked image along the Jupyter search
// path as a process inside would see it.
func findKernelspecs(rootfs string, env []string, home string) (map[string]sandboxes.Kernelspec, []error) {
	fsys := treeFS(rootfs)
	found, problems := kernelspec.Find(fsys, searchPath(fsys, env, home))
	specs := make(map[string]sandboxes.Kernelspec, len(found))
	for name, s := range found {
		specs[name] = sandboxes.Kernelspec{Name: s.Name, JSON: s.JSON, Dir: s.Dir, Files: s.Files}
	}
	return specs, problems
}

// searchPath is the Jupyter data directories of an image, first wins.
func searchPath(fsys fs.FS, env []string, home string) []string {
	vars := make(map[string]string)
	for _, kv := range env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			vars[k] = v
		}
	}
	var dirs []string
	add := func(dir string) {
		if path.IsAbs(dir) && !slices.Contains(dirs, path.Clean(dir)) {
			dirs = append(dirs, path.Clean(dir))
		}
	}
	for dir := range strings.SplitSeq(vars["JUPYTER_PATH"], ":") {
		add(dir)
	}
	add(vars["JUPYTER_DATA_DIR"])
	add(path.Join(home, ".local/share/jupyter"))
	for _, bin := range strings.Split(vars["PATH"], ":") {
		if _, err := fs.Stat(fsys, strings.TrimPrefix(path.Join(bin, "python3"), "/")); err == nil && path.Base(bin) == "bin" {
			add(path.Join(path.Dir(bin), "share/jupyter"))
		}
	}
	add("/opt/conda/share/jupyter")
	add("/usr/local/share/jupyter")
	add("/usr/share/jupyter")
	homes, _ := fs.Glob(fsys, "home/*/.local/share/jupyter") // the pattern is valid
	for _, dir := range homes {
		add("/" + dir)
	}
	return dirs
}
