package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// live keeps lines at the bottom of a terminal that are drawn again as things go
// on, one for each target at work; what is printed scrolls by above them. It is
// safe for concurrent use.
type live struct {
	out  io.Writer
	size func() (width, height int) // of the terminal

	mu     sync.Mutex
	order  []string
	lines  map[string]string
	drawn  int  // lines on the screen now
	dirty  bool // lines changed since they were drawn
	paused bool

	stop, stopped chan struct{}
}

// redrawEvery is how often the lines are drawn again when something changed.
const redrawEvery = 100 * time.Millisecond

// newLive starts redrawing; close ends it.
func newLive(out io.Writer, size func() (int, int)) *live {
	l := &live{out: out, size: size, lines: map[string]string{}, stop: make(chan struct{}), stopped: make(chan struct{})}
	go l.loop()
	return l
}

func (l *live) loop() {
	defer close(l.stopped)
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			l.mu.Lock()
			if l.dirty && !l.paused {
				var b bytes.Buffer
				l.erase(&b)
				l.draw(&b)
				_, _ = l.out.Write(b.Bytes()) // the next print tells
			}
			l.mu.Unlock()
		}
	}
}

// close erases the lines and waits until nothing is drawn any more.
func (l *live) close() {
	close(l.stop)
	<-l.stopped
	l.mu.Lock()
	defer l.mu.Unlock()
	var b bytes.Buffer
	l.erase(&b)
	_, _ = l.out.Write(b.Bytes())
	l.lines, l.order = map[string]string{}, nil
}

// set shows what a target is doing. The text is one clean line.
func (l *live) set(target, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.lines[target]; !ok {
		l.order = append(l.order, target)
	}
	l.lines[target] = text
	l.dirty = true
}

// done takes the line of a target away.
func (l *live) done(target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.lines[target]; ok {
		delete(l.lines, target)
		l.order = slices.DeleteFunc(l.order, func(s string) bool { return s == target })
		l.dirty = true
	}
}

// print writes whole lines above.
func (l *live) print(p []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b bytes.Buffer
	l.erase(&b)
	b.Write(p)
	if !l.paused {
		l.draw(&b)
	}
	_, err := l.out.Write(b.Bytes())
	return err
}

// through returns a writer for another stream of the same terminal.
func (l *live) through(w io.Writer) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		var b bytes.Buffer
		l.erase(&b)
		_, _ = l.out.Write(b.Bytes())
		n, err := w.Write(p)
		l.dirty = true
		return n, err
	})
}

// pause leaves the terminal to f.
func (l *live) pause(f func()) {
	l.mu.Lock()
	var b bytes.Buffer
	l.erase(&b)
	_, _ = l.out.Write(b.Bytes())
	l.paused = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.paused, l.dirty = false, true
		l.mu.Unlock()
	}()
	f()
}

// erase goes back to the first line and clears to the end of the screen (ECMA-48:
// CPL, ED).
func (l *live) erase(b *bytes.Buffer) {
	if l.drawn > 0 {
		fmt.Fprintf(b, "\x1b[%dF\x1b[J", l.drawn)
		l.drawn = 0
	}
}

func (l *live) draw(b *bytes.Buffer) {
	l.dirty = false
	width, height := l.size()
	room := max(1, height-2)
	for i, target := range l.order {
		if i+1 == room && len(l.order) > room {
			fmt.Fprintf(b, "... and %d more\n", len(l.order)-i)
			l.drawn++
			return
		}
		fmt.Fprintln(b, fit(clean(target)+": "+l.lines[target], width))
		l.drawn++
	}
}

// fit cuts a line so that it does not wrap: a wrapped line would not be erased.
// Wide characters count as two columns, as East Asian scripts need.
func fit(s string, width int) string {
	s = strings.TrimRight(s, " ")
	columns := 0
	for i, r := range s {
		w := 1
		if r >= 0x1100 {
			w = 2
		}
		if columns += w; columns >= width {
			return s[:i]
		}
	}
	return s
}
