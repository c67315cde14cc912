def write(*a): open(a[0],"w").write("x")
