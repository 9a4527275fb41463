// Package image keeps the images that sandboxes are made from: it builds the
// default one, pulls others, unpacks them and finds the kernelspecs inside. It
// knows nothing of how a sandbox runs.
//
// Images come from strangers. Nothing in a layer can name, write or read a
// path outside the root filesystem it is unpacked to: paths are resolved as
// inside a chroot and then opened through os.Root, which refuses to leave.
package image
