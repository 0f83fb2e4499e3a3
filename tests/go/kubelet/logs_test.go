package kubelet

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

var numbered = regexp.MustCompile(`line (\d+) of a log`)

// TestLogs reads a log while it grows and is rotated, and what rotation left.
func TestLogs(t *testing.T) {
	t.Parallel()
	n := open(t)
	n.until(t, "logs", ready())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	body, err := n.get(ctx, "/containerLogs/default/logs-node1/count?follow=true")
	check(t, err)
	defer body.Close()
	last, lost := 0, 0
	for lines := bufio.NewScanner(body); last < 10000 && lines.Scan(); {
		number := found(t, lines.Text())
		if last > 0 && number != last+1 {
			lost++
		}
		last = number
	}
	if last != 10000 || lost > 0 {
		t.Errorf("followed to line %d, %d gaps", last, lost)
	}
	tail, err := n.get(ctx, "/containerLogs/default/logs-node1/count?tailLines=2&timestamps=true")
	check(t, err)
	text, err := io.ReadAll(tail)
	tail.Close()
	check(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 2 || found(t, lines[1]) != 10000 {
		t.Errorf("the end of the log: %q", lines)
	}
	if _, err := time.Parse(time.RFC3339Nano, strings.Fields(lines[0])[0]); err != nil {
		t.Error(err)
	}
	n.rotated(t)
}

func found(t *testing.T, line string) int {
	t.Helper()
	number, err := parsed(line)
	check(t, err)
	return number
}

func parsed(line string) (int, error) {
	match := numbered.FindStringSubmatch(line)
	if match == nil {
		return 0, fmt.Errorf("not a line of the log: %q", line)
	}
	return strconv.Atoi(match[1])
}

// rotated reads the files that are kept: the oldest were removed, the rest have each line once.
func (n *node) rotated(t *testing.T) {
	files, last, err := n.kept("count")
	check(t, err)
	if files < 3 || last != 10000 {
		t.Errorf("%d files, which end with line %d", files, last)
	}
}

// ticked reads the log that grows always: what restarts there were cost it no line. It returns the last.
func (n *node) ticked(t *testing.T) (last int) {
	t.Helper()
	var err error
	for range 5 { // the kubelet may have rotated it in between
		if _, last, err = n.kept("tick"); err == nil {
			return last
		}
		time.Sleep(300 * time.Millisecond)
	}
	t.Fatal(err)
	return 0
}

// kept reads a container's logs from the oldest that is kept, tells how many there are and the number of the last line.
func (n *node) kept(container string) (count, last int, err error) {
	files, err := filepath.Glob(filepath.Join(n.work, "logs", "default_logs-node1_*", container, "0.log*"))
	if err != nil {
		return 0, 0, err
	}
	if len(files) == 0 {
		return 0, 0, fmt.Errorf("%s has no log", container)
	}
	sort.Strings(files) // by the time of their rotation, but for 0.log itself, which is the newest
	for _, name := range append(files[1:], files[0]) {
		err := each(name, func(line string) error {
			number, err := parsed(line)
			if err == nil && last > 0 && number != last+1 {
				err = fmt.Errorf("%s: line %d after %d", name, number, last)
			}
			last = number
			return err
		})
		if err != nil {
			return 0, 0, err
		}
	}
	return len(files), last, nil
}

func each(name string, do func(string) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	var from io.Reader = file
	if strings.HasSuffix(name, ".gz") {
		if from, err = gzip.NewReader(file); err != nil {
			return err
		}
	}
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		if err := do(lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}
