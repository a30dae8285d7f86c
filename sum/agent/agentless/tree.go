package agentless

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// tree is a part of a target's file system, copied to the manager. What the target
// says decides neither what lies outside of root nor what is read there.
type tree struct {
	root  *os.Root
	links []symlink
	names int
	files int
}

type symlink struct{ name, target string }

var errTree = errors.New("the target's list of files makes no sense, or is too long")

// read takes what treeScript prints.
func (t *tree) read(r io.Reader) error {
	in := &io.LimitedReader{R: r, N: maxTree}
	br := bufio.NewReaderSize(in, 64<<10)
	links := true
	var file *os.File
	defer func() {
		if file != nil {
			file.Close()
		}
	}()
	for {
		line, err := br.ReadString('\n')
		switch {
		case err != nil && err != io.EOF:
			return err
		case in.N <= 0:
			return errTree
		case links && line == "\n":
			links = false
		case links && line != "":
			if l, ok := parseLink(line); ok {
				t.links = append(t.links, l)
			}
		case !links:
			name, header := parseHeader(line)
			if !header {
				if file != nil {
					if _, err := file.WriteString(line); err != nil {
						return err
					}
				}
				break
			}
			if file != nil {
				if err := file.Close(); err != nil {
					return err
				}
				file = nil
			}
			if !inside(name) {
				break
			}
			if t.files++; t.files > maxFiles {
				return errTree
			}
			if err := t.root.MkdirAll(path.Dir(name), 0o700); err != nil {
				return err
			}
			if file, err = t.root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
				return err
			}
		}
		if t.names++; t.names > 8*maxNames || len(t.links) > maxFiles {
			return errTree
		}
		if err == io.EOF {
			return nil
		}
	}
}

// Bounds of one name, of which sysfs uses a quarter.
const (
	maxTreeName  = 512 // bytes
	maxTreeDepth = 32
	maxFiles     = 50_000
)

// inside reports whether a name is one below the root, without detours.
func inside(name string) bool {
	return len(name) <= maxTreeName && strings.Count(name, "/") < maxTreeDepth && name != "." && fs.ValidPath(name) && filepath.IsLocal(filepath.FromSlash(name))
}

// parseHeader reads a line that head(1) puts before a file.
func parseHeader(line string) (name string, ok bool) {
	name, ok = strings.CutPrefix(strings.TrimSuffix(line, "\n"), "==> ")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(name, " <==")
}

// parseLink reads a line of ls -l about a symbolic link. Only one that first goes
// up, and not above the root, and then down, is taken.
func parseLink(line string) (symlink, bool) {
	left, target, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " -> ")
	name := left[strings.LastIndexByte(left, ' ')+1:]
	if !ok || !inside(name) {
		return symlink{}, false
	}
	down, up := target, 0
	for strings.HasPrefix(down, "../") {
		down, up = down[3:], up+1
	}
	if len(target) > maxTreeName || !inside(down) || up > strings.Count(name, "/") {
		return symlink{}, false
	}
	return symlink{name, target}, true
}

// link makes the links, when everything else is there: each lies where its name
// says, and not where another link leads.
func (t *tree) link() error {
	for _, l := range t.links {
		plain := true
		for d := path.Dir(l.name); d != "."; d = path.Dir(d) {
			fi, err := t.root.Lstat(d)
			if err == nil && !fi.IsDir() {
				plain = false
			}
		}
		if !plain {
			continue
		}
		if err := t.root.MkdirAll(path.Dir(l.name), 0o700); err != nil {
			return err
		}
		if err := t.root.Symlink(filepath.FromSlash(l.target), l.name); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return nil
}
