package s3embed

import (
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/versity/versitygw/s3response"
	"golang.org/x/sys/unix"
)

const (
	// smallObject is up to what size an object may take the last of a disk, in
	// bytes: to delete something, whoever uses the server writes down what and
	// where, and without room for that nobody could make room.
	smallObject = 64 << 10
	// lastRoom is what larger objects leave, but at most a twentieth of the disk.
	lastRoom = 64 << 20
)

// hasRoom refuses a large object that would take the last of the disk.
func (d *directory) hasRoom(in s3response.PutObjectInput) error {
	size := aws.ToInt64(in.ContentLength)
	if size <= smallObject {
		return nil
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(d.bucket, &disk); err != nil {
		return fmt.Errorf("cannot see whether there is room for an object: %w", err)
	}
	free, total := int64(disk.Bavail)*disk.Bsize, int64(disk.Blocks)*disk.Bsize
	if free-size >= min(lastRoom, total/20) {
		return nil
	}
	if in.Body != nil {
		// The connection goes on being used: the rest of the request must not stay.
		if _, err := io.Copy(io.Discard, in.Body); err != nil {
			return err
		}
	}
	return fmt.Errorf("%d bytes are free, and %d were to be written: %w", free, size, unix.ENOSPC)
}
