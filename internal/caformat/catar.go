package caformat

// Record types of an archive. A record is its size in bytes, header included,
// its type, and what the type says.
const (
	Entry           = 0x1396fabcea5bbb51
	User            = 0xf453131aaeeaccb3
	Group           = 0x25eb6ac969396a52
	XAttr           = 0xb8157091f80bc486
	ACLUser         = 0x297dc88b2ef12faf
	ACLGroup        = 0x36f2acb56cb3dd0b
	ACLGroupObj     = 0x23047110441f38f3
	ACLDefault      = 0xfe3eeda6823c8cd0
	ACLDefaultUser  = 0xbdf03df9bd010a91
	ACLDefaultGroup = 0xa0cb1168782d1f51
	SELinuxLabel    = 0x46faf0602fd26c59
	FileCaps        = 0xf7267db0afed0629
	ProjectID       = 0x161baf2d8772a72b
	Payload         = 0x8b9e1d93d6dcffc9
	SymlinkTarget   = 0x664a6fb6830e0d6c
	Device          = 0xac3dace369dfe643
	Filename        = 0x6dbb6ebcb3161f0b
	Goodbye         = 0xdfd35c5e8327c403

	// GoodbyeTail is the last word of every GOODBYE record.
	GoodbyeTail = 0x57446fa533702943
)

// NameKey0 and NameKey1 are the two halves of the key with which SipHash-2-4
// hashes the names in GOODBYE records.
const (
	NameKey0 = 0x8574442b0f1d84b3
	NameKey1 = 0x2736ed30d1c22ec1
)

// Selectable feature flags: what an archive holds. The attribute flags and the
// two of subvolumes are also the bits of an entry's own flags.
const (
	UID16 = 1 << iota
	UID32
	UserNames
	SecTime
	USecTime
	NSecTime
	TwoSecTime
	ReadOnly
	Permissions
	Symlinks
	DeviceNodes
	FIFOs
	Sockets
	FlagHidden
	FlagSystem
	FlagArchive
	FlagAppend
	FlagNoATime
	FlagCompr
	FlagNoCOW
	FlagNoDump
	FlagDirSync
	FlagImmutable
	FlagSync
	FlagNoComp
	FlagProjInherit
	Subvolume
	SubvolumeRO
	XAttrs
	ACL
	SELinux
	FCaps
	QuotaProjID
)

// Groups of flags.
const (
	FATAttrs = FlagHidden | FlagSystem | FlagArchive
	Chattr   = FlagAppend | FlagNoATime | FlagCompr | FlagNoCOW | FlagNoDump | FlagDirSync |
		FlagImmutable | FlagSync | FlagNoComp | FlagProjInherit

	// Best is everything in its finest form; ACL stands for Permissions.
	Best = UID32 | UserNames | NSecTime | Symlinks | DeviceNodes | FIFOs | Sockets | FATAttrs | Chattr |
		Subvolume | SubvolumeRO | XAttrs | ACL | SELinux | FCaps | QuotaProjID
	// Unix is what any Unix file system has had for long.
	Unix = UID16 | SecTime | Permissions | Symlinks | DeviceNodes | FIFOs | Sockets
	// FAT is what a FAT file system has.
	FAT = TwoSecTime | ReadOnly | FATAttrs
	// Privileged is what only a privileged process can restore.
	Privileged = UID16 | UID32 | UserNames | DeviceNodes | FlagSystem | FlagAppend | FlagImmutable |
		Subvolume | SubvolumeRO | ACL | SELinux | FCaps | QuotaProjID
	// FUSE is what a mounted archive can show.
	FUSE = UID16 | UID32 | SecTime | USecTime | NSecTime | TwoSecTime | ReadOnly | Permissions |
		Symlinks | DeviceNodes | FIFOs | Sockets | FATAttrs | Chattr | XAttrs
)
