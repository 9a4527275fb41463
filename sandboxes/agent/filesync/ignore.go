package filesync

import (
	"path"
	"strings"
)

// ignoredNames stay in the sandbox wherever they are: they can be made again,
// are of this machine, or are only whole together with what a process holds in
// memory.
var ignoredNames = map[string]bool{
	".venv": true, "node_modules": true, "__pycache__": true, ".cache": true, ".local": true, ".ipython": true,
	".config": true, ".jupyter": true, ".npm": true, ".conda": true, incoming: true,
}

var ignoredSuffixes = []string{".sqlite-wal", ".sqlite-shm", ".sqlite-journal", ".db-wal", ".db-shm", ".db-journal", ".pyc"}

// ignored reports whether a path stays where it is, on both sides.
func (s *Syncer) ignored(p string) bool {
	inGit := false
	for name := range strings.SplitSeq(p, "/") {
		if ignoredNames[name] || inGit && strings.HasSuffix(name, ".lock") {
			return true
		}
		inGit = inGit || name == ".git"
		for _, suffix := range ignoredSuffixes {
			if strings.HasSuffix(name, suffix) {
				return true
			}
		}
		for _, pattern := range s.o.Config.Ignore {
			if match, err := path.Match(pattern, name); err == nil && match {
				return true
			}
		}
	}
	return false
}
