package s3store

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"kernelgw/contents"
)

// An entry that cannot be read again hides all of the trash, and no sweep would
// ever empty it. In JSON an ampersand has six bytes.
func TestTrashOfTheLargestTreeOfTheLongestPathsCanBeRead(t *testing.T) {
	deleted := &tree{root: "d"}
	for range maxTree {
		deleted.files = append(deleted.files, treeFile{
			path:   strings.Repeat("&", contents.MaxPathBytes),
			object: object{version: strings.Repeat("v", 64), size: 1, modified: time.Unix(0, 0)},
		})
	}
	files := 0
	for _, entry := range trashOf(deleted, nil, strings.Repeat("&", maxAuthorBytes)) {
		body, err := json.Marshal(entry)
		if err != nil {
			t.Fatal(err)
		}
		if len(body) >= maxBytes/4 { // records of checkpoints come on top
			t.Fatalf("an entry of %d files has %d bytes", len(entry.Files), len(body))
		}
		files += len(entry.Files)
	}
	if files != maxTree {
		t.Errorf("%d of %d files are in the trash", files, maxTree)
	}
}
