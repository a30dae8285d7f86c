package fleet

import (
	"bytes"
	"fmt"
	"io"
)

// readAtMost reads all of r, and fails where that is more than limit bytes.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("larger than %d bytes", limit)
	}
	return data, err
}

// tooDeep returns the line in which a YAML text opens more levels than a fleet
// file can have, or 0. The parser recurses for each level, so it must not see a
// text that has millions of them. What looks like a level inside a string counts
// too, which no real fleet file comes near to.
func tooDeep(data []byte) int {
	open := 0
	for i, line := range bytes.Split(data, []byte("\n")) {
		indent, dashes := 0, 0
		inIndent := true
		for j, c := range line {
			if c == '#' && (j == 0 || line[j-1] == ' ') {
				break // a comment
			}
			switch c {
			case ' ', '\t':
				if inIndent {
					indent++
				}
				continue
			case '-', '?':
				if inIndent {
					dashes++
					continue
				}
			case '[', '{':
				open++
			case ']', '}':
				open = max(0, open-1)
			}
			inIndent = false
			if open > maxDepth {
				return i + 1
			}
		}
		if dashes > maxDepth && indent > 0 || indent > 64*maxDepth || bytes.Count(line, []byte(":")) > 1024 {
			return i + 1
		}
	}
	return 0
}
