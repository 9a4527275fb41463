package containerd_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/containerd"
)

func TestImagesNoLongerKeptAreCollected(t *testing.T) {
	runcDaemons(t, func(t *testing.T, b backend) {
		d, o := b.tiny(t)
		old := o.Images.(*tinyImage)
		sb := b.make(t, d, "wait")
		admin := b.daemon.client(t)
		if names := imageNames(t, t.Context(), admin, old.image.Digest); len(names) != 1 {
			t.Fatalf("the image is in containerd as %q", names)
		}
		// The next image that comes sees what went; what still runs goes on.
		old.gone = true
		images := &twoImages{old: old, next: newTinyImage(t)}
		o.Images = images
		second := newDriver(t, o)
		t.Cleanup(func() { removeImage(t, admin, images.next.image.Digest) })
		b.make(t, second, "wait")
		if names := imageNames(t, t.Context(), admin, old.image.Digest); len(names) != 0 {
			t.Errorf("an image that nobody keeps is still in containerd as %q", names)
		}
		b.answers(t, sb)
	})
}

// runcDaemons runs a test on each containerd, with runc: no shim sees what it is
// about.
func runcDaemons(t *testing.T, test func(t *testing.T, b backend)) {
	forEach(t, func(t *testing.T, b backend) {
		if b.kata {
			t.Skip("no shim has a part in it: tried with runc")
		}
		test(t, b)
	})
}

type twoImages struct{ old, next *tinyImage }

func (i *twoImages) Resolve(ctx context.Context, ref string) (containerd.Image, error) {
	return i.next.Resolve(ctx, ref)
}

func (i *twoImages) Digests(ctx context.Context) ([]string, error) { return i.next.Digests(ctx) }

// Two gateways use one containerd, and the same image: what one of them no longer
// keeps, and what it finds left behind, is its own.
func TestGatewaysLeaveEachOthersThingsAlone(t *testing.T) {
	runcDaemons(t, func(t *testing.T, b backend) {
		first, o := b.tiny(t)
		shared := o.Images.(*tinyImage)
		kept := b.make(t, first, "wait")
		admin := b.daemon.client(t)

		other := o
		next := newTinyImage(t)
		other.StateDir = shortTempDir(t)
		second := newDriver(t, other)
		t.Cleanup(func() { removeImage(t, admin, next.image.Digest) })
		b.answers(t, b.make(t, second, "wait"))
		if names := imageNames(t, t.Context(), admin, shared.image.Digest); len(names) != 2 {
			t.Fatalf("for two gateways the image has the names %q", names)
		}
		// The second one keeps another image from now on.
		other.Images = &twoImages{old: shared, next: next}
		second = newDriver(t, other)
		b.answers(t, b.make(t, second, "wait"))
		if names := imageNames(t, t.Context(), admin, shared.image.Digest); len(names) != 1 {
			t.Errorf("after one gateway let it go the image has the names %q", names)
		}
		b.answers(t, kept)
		b.answers(t, b.make(t, first, "wait"))

		// What the first one lost is no leak of the second's.
		lost := b.make(t, first, "wait")
		if err := os.RemoveAll(filepath.Join(o.StateDir, lost.Spec.ID)); err != nil {
			t.Fatal(err)
		}
		if leaks, err := second.Repair(t.Context()); err != nil || len(leaks) != 0 {
			t.Errorf("the second gateway's Repair: %v, %v", leaks, err)
		}
		if leaks, err := first.Repair(t.Context()); err != nil || len(leaks) == 0 {
			t.Errorf("the first gateway's Repair: %v, %v", leaks, err)
		}
		b.nothingLeft(t, lost.Spec.ID)
	})
}

func TestADataDirectoryThatWasMovedKeepsItsSandboxes(t *testing.T) {
	runcDaemons(t, func(t *testing.T, b backend) {
		d, o := b.tiny(t)
		sb := b.make(t, d, "wait")
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		moved := filepath.Join(shortTempDir(t), "moved")
		if err := os.Rename(o.StateDir, moved); err != nil {
			t.Fatal(err)
		}
		o.StateDir = moved
		again := newDriver(t, o)
		list, err := again.List(t.Context())
		if err != nil || len(list) != 1 || list[0].Spec.ID != sb.Spec.ID {
			t.Fatalf("List: %+v, %v", list, err)
		}
		if leaks, err := again.Leaks(t.Context()); err != nil || len(leaks) != 0 {
			t.Errorf("Leaks: %v, %v", leaks, err)
		}
		b.answers(t, list[0])
		if err := again.Destroy(t.Context(), sb.Spec.ID); err != nil {
			t.Error(err)
		}
		b.nothingLeft(t, sb.Spec.ID)
	})
}

// A snapshotter that copies the image for each sandbox has no layer to give.
func TestASnapshotterWithoutLayersIsKnown(t *testing.T) {
	runcDaemons(t, func(t *testing.T, b backend) {
		d, o := b.tiny(t)
		if !d.Capabilities().Layers {
			t.Error("with overlayfs there are no layers")
		}
		o.Snapshotter, o.StateDir = "native", shortTempDir(t)
		native := newDriver(t, o)
		if native.Capabilities().Layers {
			t.Error("with native there are layers")
		}
		sb := b.make(t, native, "wait")
		if err := native.ExportLayer(t.Context(), sb.Spec.ID, io.Discard); !errors.Is(err, sandboxes.ErrInvalid) {
			t.Errorf("ExportLayer: %v", err)
		}
		o.Snapshotter, o.StateDir = "none", shortTempDir(t)
		if d, err := containerd.New(o); err == nil {
			_ = d.Close()
			t.Error("a snapshotter that there is not is taken")
		}
	})
}
