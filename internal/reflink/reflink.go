// Package reflink makes files share storage, where the file system can.
package reflink
