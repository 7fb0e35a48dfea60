# AppX packages that are installed for a user and not provisioned for all users: sysprep refuses each of them. Edge installs
# some by itself (Windows 11, Windows Server 2025). Microsoft: "Sysprep fails after you remove or update Microsoft Store apps".
$ErrorActionPreference = 'Stop'

$provisioned = @(Get-AppxProvisionedPackage -Online | ForEach-Object DisplayName)
$left = @(Get-AppxPackage -AllUsers | Where-Object {
        -not $_.IsFramework -and -not $_.NonRemovable -and $_.SignatureKind -ne 'System' -and
        $provisioned -notcontains $_.Name
    })
foreach ($package in $left) {
    Write-Output "removing $($package.PackageFullName)"
    Remove-AppxPackage -Package $package.PackageFullName -AllUsers
}
Write-Output "removed $($left.Count) packages"
