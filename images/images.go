// Package images holds the inputs of the images that kernelgw builds, so that
// the binary can build them without its source tree.
package images

import (
	"embed"
	"io/fs"
)

//go:embed default
var files embed.FS

// Default is the inputs of the default image: packages, requirements.lock and
// exclude. Package sandboxes/image says what they mean.
func Default() fs.FS {
	sub, err := fs.Sub(files, "default")
	if err != nil {
		panic(err) // the directory is compiled in
	}
	return sub
}
