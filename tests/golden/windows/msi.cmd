start "" /wait msiexec.exe /i "%~dp0WindowsAzureVmAgent 2.7.msi" /qn /norestart /l*v "%~dp0msi.log" ADDLOCAL="ALL" INSTALLDIR="C:\Program Files\X" TAG="100%% & more" EMPTY=""
