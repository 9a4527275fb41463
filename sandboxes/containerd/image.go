package containerd

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// podRoot is the snapshot with the root of the first container of every pod, of
// all gateways. The number changes with what is put into it, so that a newer
// gateway does not use an older one's.
const podRoot = "kernelgw-pod-1"

// imageName is the name of an image in containerd: this driver's own, so that
// nobody else removes it, and the digest's, so that it never means another image.
// What is in an image containerd keeps once, whoever names it.
func (d *Driver) imageName(of digest.Digest) string {
	return "kernelgw.local/" + d.owner + "/image@" + of.String()
}

// baseKey is the name of the snapshot with an image, mount points and a home. Its
// number is as podRoot's.
func (d *Driver) baseKey(of digest.Digest) string {
	return "kernelgw-base-1-" + d.owner + "-" + of.Encoded()
}

// rootLabel keeps a snapshot from containerd's garbage collection.
const rootLabel = "containerd.io/gc.root"

// baseSnapshot imports and unpacks an image, unless that was done, and returns
// the snapshot that sandboxes of it begin with.
func (d *Driver) baseSnapshot(ctx context.Context, image Image) (string, error) {
	parsed, err := digest.Parse(image.Digest)
	if err != nil {
		return "", fmt.Errorf("image digest %q: %w", image.Digest, err)
	}
	key := d.baseKey(parsed)
	if d.committed(ctx, key) {
		return key, nil
	}
	d.images.Lock() // one at a time: each reads and writes all of an image
	defer d.images.Unlock()
	if d.committed(ctx, key) {
		return key, nil
	}
	started := time.Now()
	// What is imported belongs to nobody until the image is made.
	ctx, done, err := d.client.WithLease(ctx)
	if err != nil {
		return "", fmt.Errorf("cannot lease the image: %w", trim(err))
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }() // it expires by itself
	imported, err := d.importImage(ctx, image, parsed)
	if err != nil {
		return "", fmt.Errorf("cannot import the image into containerd: %w", trim(err))
	}
	unpacked := containerd.NewImage(d.client, imported)
	if err := unpacked.Unpack(ctx, d.snapshotter); err != nil {
		return "", fmt.Errorf("cannot unpack the image in containerd: %w", trim(err))
	}
	layers, err := unpacked.RootFS(ctx)
	if err != nil {
		return "", fmt.Errorf("cannot read the image in containerd: %w", trim(err))
	}
	err = d.commit(ctx, key, identity.ChainID(layers).String(), func(root string) error { return prepareRoot(root, image) })
	if err != nil {
		return "", err
	}
	d.opts.Log.Info("an image was unpacked in containerd", "digest", image.Digest, "took", time.Since(started).Round(time.Millisecond))
	d.collectImages(ctx)
	return key, nil
}

// podSnapshot returns the snapshot with the root of every pod's first container.
func (d *Driver) podSnapshot(ctx context.Context) (string, error) {
	if d.committed(ctx, podRoot) {
		return podRoot, nil
	}
	d.images.Lock()
	defer d.images.Unlock()
	if d.committed(ctx, podRoot) {
		return podRoot, nil
	}
	return podRoot, d.commit(ctx, podRoot, "", func(root string) error {
		for _, dir := range []string{"dev", "proc", "sys", "etc", "run", "tmp"} {
			if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
				return err
			}
		}
		return os.WriteFile(filepath.Join(root, podProgram), nil, 0o755)
	})
}

func (d *Driver) committed(ctx context.Context, key string) bool {
	info, err := d.snapshots.Stat(ctx, key)
	return err == nil && info.Kind == snapshots.KindCommitted
}

// commit makes a snapshot on top of another, filled by fill.
func (d *Driver) commit(ctx context.Context, key, parent string, fill func(root string) error) error {
	active := fmt.Sprintf("%s-making-%d", key, time.Now().UnixNano())
	// A lease of its own, so that what a killed gateway leaves is collected.
	ctx, done, err := d.client.WithLease(ctx)
	if err != nil {
		return fmt.Errorf("cannot lease a snapshot: %w", trim(err))
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	mounts, err := d.snapshots.Prepare(ctx, active, parent)
	if err != nil {
		return fmt.Errorf("cannot prepare a snapshot: %w", trim(err))
	}
	err = mount.WithTempMount(ctx, mounts, fill)
	if err == nil {
		label := snapshots.WithLabels(map[string]string{rootLabel: time.Now().UTC().Format(time.RFC3339), ownerLabel: d.owner})
		err = d.snapshots.Commit(ctx, key, active, label)
	}
	if err != nil {
		_ = d.snapshots.Remove(context.WithoutCancel(ctx), active)
		if errdefs.IsAlreadyExists(err) { // another gateway was as fast
			return nil
		}
		return fmt.Errorf("cannot fill a snapshot: %w", trim(err))
	}
	return nil
}

// importImage copies an image into containerd.
func (d *Driver) importImage(ctx context.Context, image Image, want digest.Digest) (images.Image, error) {
	name := d.imageName(want)
	if known, err := d.client.ImageService().Get(ctx, name); err == nil {
		return known, nil
	}
	if shared, ok := d.shareImage(ctx, name, want); ok {
		return shared, nil
	}
	stream, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		w.CloseWithError(writeArchive(w, image.Layout, want, name))
	}()
	imported, err := d.client.Import(ctx, stream, containerd.WithImageLabels(map[string]string{ownerLabel: d.owner}))
	_ = stream.CloseWithError(errors.New("the import has ended"))
	<-written
	if err != nil {
		return images.Image{}, err
	}
	for _, i := range imported {
		if i.Name == name && i.Target.Digest == want {
			return i, nil
		}
	}
	return images.Image{}, fmt.Errorf("containerd made no image %s of the archive", name)
}

// shareImage gives another name to an image that another gateway has imported.
func (d *Driver) shareImage(ctx context.Context, name string, want digest.Digest) (images.Image, bool) {
	service := d.client.ImageService()
	list, err := service.List(ctx, fmt.Sprintf("target.digest==%q", want))
	if err != nil || len(list) == 0 {
		return images.Image{}, false
	}
	made, err := service.Create(ctx, images.Image{Name: name, Target: list[0].Target, Labels: map[string]string{ownerLabel: d.owner}})
	if err != nil {
		return images.Image{}, false
	}
	// The other may have removed it meanwhile: what is there now stays.
	whole, _, _, missing, err := images.Check(ctx, d.client.ContentStore(), made.Target, nil)
	if err != nil || !whole || len(missing) > 0 {
		_ = service.Delete(ctx, name)
		return images.Image{}, false
	}
	return made, true
}

// writeArchive writes one image of an OCI layout as a tar archive of such a
// layout. containerd checks every blob against its digest.
func writeArchive(w io.Writer, layout string, manifest digest.Digest, name string) error {
	archive := tar.NewWriter(w)
	raw, err := os.ReadFile(blobPath(layout, manifest))
	if err != nil {
		return fmt.Errorf("cannot read the image's manifest: %w", err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("cannot read the image's manifest: %w", err)
	}
	mediaType := m.MediaType
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageManifest
	}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{
			MediaType: mediaType, Digest: manifest, Size: int64(len(raw)),
			Annotations: map[string]string{images.AnnotationImageName: name},
		}},
	})
	if err != nil {
		return err
	}
	for file, data := range map[string][]byte{
		ocispec.ImageLayoutFile: []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`),
		ocispec.ImageIndexFile:  index,
	} {
		if err := archive.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		if _, err := archive.Write(data); err != nil {
			return err
		}
	}
	sent := map[digest.Digest]bool{}
	for _, blob := range append([]ocispec.Descriptor{{Digest: manifest}, m.Config}, m.Layers...) {
		if sent[blob.Digest] {
			continue
		}
		sent[blob.Digest] = true
		if err := writeBlob(archive, layout, blob.Digest); err != nil {
			return fmt.Errorf("cannot read blob %s: %w", blob.Digest, err)
		}
	}
	return archive.Close()
}

func writeBlob(archive *tar.Writer, layout string, d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return err
	}
	f, err := os.Open(blobPath(layout, d))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	name := "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(archive, f)
	return err
}

func blobPath(layout string, d digest.Digest) string {
	return filepath.Join(layout, "blobs", d.Algorithm().String(), d.Encoded())
}

// prepareRoot adds to an image what every sandbox needs: points to mount on, and
// a home that belongs to the kernel's user.
func prepareRoot(dir string, image Image) error {
	// Links in an image lead where its author likes: os.Root does not follow them
	// out of it.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, point := range []string{"dev", "proc", "sys", "tmp", AgentDir} {
		if err := makeDirs(root, strings.TrimPrefix(point, "/")); err != nil {
			return fmt.Errorf("cannot make mount point %s: %w", point, err)
		}
	}
	if err := root.Chmod("tmp", 0o777|fs.ModeSticky); err != nil {
		return err
	}
	f, err := root.OpenFile(strings.TrimPrefix(AgentBinary, "/"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("cannot make mount point %s: %w", AgentBinary, err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	home := strings.Trim(filepath.Clean(image.Home), "/")
	if home == "" || home == "." {
		return nil
	}
	if _, err := root.Stat(home); !errors.Is(err, fs.ErrNotExist) {
		return err // the image's own, whoever owns it
	}
	if err := makeDirs(root, home); err != nil {
		return fmt.Errorf("cannot make the home %s: %w", image.Home, err)
	}
	if err := root.Chown(home, int(image.UID), int(image.GID)); err != nil {
		return fmt.Errorf("cannot give away the home %s: %w", image.Home, err)
	}
	return root.Chmod(home, 0o700)
}

// makeDirs is root.MkdirAll with mode 0755 whatever the umask is: a service's may
// keep the kernel's user out of what is on the way to its home.
func makeDirs(root *os.Root, dir string) error {
	for i := 0; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		err := root.Mkdir(dir[:i], 0o755)
		if err == nil {
			err = root.Chmod(dir[:i], 0o755)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	info, err := root.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("the image has a file at %s", dir)
	}
	return err
}

// collectImages takes from containerd what this driver has put there of images
// that are no longer kept and have no sandbox. What fails is left for the next
// time.
func (d *Driver) collectImages(ctx context.Context) {
	kept, err := d.opts.Images.Digests(ctx)
	if err != nil {
		d.opts.Log.Warn("cannot tell which images are still kept", "error", err)
		return
	}
	keep := map[string]bool{}
	for _, text := range kept {
		if parsed, err := digest.Parse(text); err == nil {
			keep[d.imageName(parsed)], keep[d.baseKey(parsed)] = true, true
		}
	}
	own := fmt.Sprintf("labels.%q==%q", ownerLabel, d.owner)
	list, err := d.client.ImageService().List(ctx, own)
	if err != nil {
		d.opts.Log.Warn("cannot list containerd's images", "error", trim(err))
		return
	}
	for _, image := range list {
		if keep[image.Name] {
			continue
		}
		d.opts.Log.Info("removing an image from containerd", "digest", image.Target.Digest)
		if err := d.client.ImageService().Delete(ctx, image.Name); err != nil && !errdefs.IsNotFound(err) {
			d.opts.Log.Warn("cannot remove an image from containerd", "digest", image.Target.Digest, "error", trim(err))
		}
	}
	var old []string
	err = d.snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted && info.Name != podRoot && !keep[info.Name] {
			old = append(old, info.Name)
		}
		return nil
	}, own)
	if err != nil {
		d.opts.Log.Warn("cannot list containerd's snapshots", "error", trim(err))
	}
	for _, key := range old {
		// One that a sandbox stands on is refused, and tried again another time.
		if err := d.snapshots.Remove(ctx, key); err != nil && !isAny(err, errdefs.ErrNotFound, errdefs.ErrFailedPrecondition) {
			d.opts.Log.Warn("cannot remove a snapshot", "snapshot", key, "error", trim(err))
		}
	}
}
