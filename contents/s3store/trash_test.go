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
func TestAnEntryOfTheMostFilesOfTheLongestPathsCanBeRead(t *testing.T) {
	var files []treeFile
	for range maxTrashed {
		files = append(files, treeFile{
			path:   strings.Repeat("&", contents.MaxPathBytes),
			object: object{version: strings.Repeat("v", 64), size: 1, modified: time.Unix(0, 0)},
		})
	}
	body, err := json.Marshal(trashOf(files, nil, strings.Repeat("&", maxAuthorBytes)))
	if err != nil {
		t.Fatal(err)
	}
	if len(body) >= maxBytes/4 { // records of checkpoints come on top
		t.Fatalf("an entry of %d files has %d bytes", len(files), len(body))
	}
}
